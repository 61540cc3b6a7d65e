# Licensed under the Apache License, Version 2.0.
# UPerNet on Swin-T. Classes and crop of datasets/voc_512.py.
_base_ = 'mmseg::_base_/models/upernet_swin.py'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/'
            'swin_tiny_patch4_window7_224_20220317-1cdeb081.pth')),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
