# Licensed under the Apache License, Version 2.0.
# DeepLabV3+ MobileNetV2, CamVid at half resolution, for two CPU cores: one labelled pixel of
# each class (p0) in each image.
_base_ = './deeplabv3plus_m-v2_camvid_supervised-20.py'
# One pixel of each class makes a pole as frequent as the road: more than it is weighed with in
# supervised-20, by the root of median frequency over frequency. Not so for other levels.
label_ratio = _base_.class_weight
model = dict(
    decode_head=dict(
        loss_decode=dict(
                type='LogitAdjustedLoss', class_weight=None, label_ratio=label_ratio)))
train_dataloader = dict(
    dataset=dict(
        type='PartialCamVidDataset',
        ann_file='train.txt',
        level='p0',
        seed=0))
