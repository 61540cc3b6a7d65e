# Licensed under the Apache License, Version 2.0.
# Baseline of the demo: DeepLabV3+ on three stages of a thin ResNet-18, from scratch; one labelled
# pixel per class and image.
_base_ = [
    '../_base_/datasets/demo.py', '../_base_/schedules/schedule_cpu.py',
    '../_base_/default_runtime.py'
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(64, 96)),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        num_stages=3,
        base_channels=16,
        stem_channels=16,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        norm_cfg=norm_cfg),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=64,
        in_index=2,
        channels=48,
        dilations=(1, 2, 4),
        c1_in_channels=16,
        c1_channels=16,
        dropout_ratio=0,
        num_classes=9,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(optimizer=dict(lr=6e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=_base_.max_iters, by_epoch=False),
]
train_cfg = dict(val_interval=_base_.max_iters)
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=_base_.max_iters, save_best=None))
