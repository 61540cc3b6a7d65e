# Licensed under the Apache License, Version 2.0.
# MaskFormer on torchvision's ResNet-50. Classes and crop of datasets/camvid.py.
_base_ = './maskformer_r101-d32.py'
num_classes = 11
model = dict(
    data_preprocessor=dict(size=(360, 480)),
    backbone=dict(
        depth=50,
        init_cfg=dict(checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth')),
    decode_head=dict(
        num_classes=num_classes, loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])))
