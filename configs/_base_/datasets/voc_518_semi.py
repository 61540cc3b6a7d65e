# Licensed under the Apache License, Version 2.0.
# Crops of 37 x 37 patches of 14 pixels, for DINOv2.
_base_ = './voc_512_semi.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomRescaleCrop', crop_size=(518, 518), ratio_range=(0.5, 2.0)),
    dict(type='RandomColorJitter'),
    dict(type='RandomGaussianBlur'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
