# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV3+ MobileNetV2, CamVid at half resolution, for two CPU cores: one
# labelled pixel of each class (p0) in each of 367 images.
_base_ = './deeplabv3plus_m-v2_camvid_semi-20.py'
# As in supervised-partial. Pseudo-labels are of all pixels, and keep the weights of semi-20.
label_ratio = _base_.class_weight
model = dict(
    segmentor=dict(
        decode_head=dict(
            loss_decode=dict(
                type='LogitAdjustedLoss', class_weight=None, label_ratio=label_ratio))),
    semi_train_cfg=dict(self_label_threshold=0.97))
train_dataloader = dict(
    dataset=dict(
        labeled=None,
        unlabeled=None,
        dataset=dict(type='PartialCamVidDataset', level='p0', seed=0)))
