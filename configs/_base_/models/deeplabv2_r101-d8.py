# Licensed under the Apache License, Version 2.0.
# The paper's DeepLabV2: ResNet-101 at output stride 8 and four summed dilated classifiers.
_base_ = './deeplabv3plus_r101-d16.py'
model = dict(
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(
        _delete_=True,
        type='DeepLabV2Head',
        in_channels=2048,
        in_index=3,
        num_classes=21,
        align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)))
