# Licensed under the Apache License, Version 2.0.
# UPerNet on DINOv2's ViT-S/14, which is in mmpretrain. Classes and crop of
# datasets/voc_518_semi.py.
_base_ = 'mmseg::_base_/models/upernet_beit.py'
model = dict(
    data_preprocessor=dict(size=(518, 518)),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='dinov2-small',
        img_size=518,
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmpretrain/v1.0/dinov2/'
            'vit-small-p14_dinov2-pre_3rdparty_20230426-5641ca5a.pth',
            prefix='backbone.')),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384] * 4, channels=256, num_classes=21),
    auxiliary_head=dict(in_channels=384, num_classes=21))
