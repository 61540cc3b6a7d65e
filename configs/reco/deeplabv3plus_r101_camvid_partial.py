# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV3+ R101, CamVid: one labelled pixel of each class (p0) in each of 367
# images.
_base_ = './deeplabv3plus_r101_camvid_semi-20.py'
model = dict(semi_train_cfg=dict(self_label_threshold=0.97))
train_dataloader = dict(
    dataset=dict(
        labeled=None,
        unlabeled=None,
        dataset=dict(type='PartialCamVidDataset', level='p0', seed=0)))
