# Licensed under the Apache License, Version 2.0.
# SegFormer B2. Classes and crop of datasets/voc_512.py.
_base_ = 'mmseg::_base_/models/segformer_mit-b0.py'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
            'mit_b2_20220624-66e8bf70.pth')),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=21))
