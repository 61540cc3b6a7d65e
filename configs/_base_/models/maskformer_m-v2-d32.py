# Licensed under the Apache License, Version 2.0.
# A slim MaskFormer on MobileNetV2 for two CPU cores: half the width, half the decoder layers, 30
# queries. Classes and crop of datasets/camvid_half.py.
_base_ = './maskformer_r101-d32.py'
num_classes = 11
attention = dict(embed_dims=128, attn_drop=0, proj_drop=0)
model = dict(
    data_preprocessor=dict(size=(180, 240)),
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(
        in_channels=[24, 32, 96, 320],
        feat_channels=128,
        out_channels=128,
        num_classes=num_classes,
        num_queries=30,
        positional_encoding=dict(num_feats=64),
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=128, feedforward_channels=512, ffn_drop=0))),
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])))
