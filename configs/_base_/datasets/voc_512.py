# Licensed under the Apache License, Version 2.0.
# PASCAL VOC 2012 + SBD in crops of 512x512, rescaled by 0.5 to 2 as the field does.
_base_ = './voc.py'
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomRescaleCrop', crop_size=crop_size, ratio_range=(0.5, 2.0)),
    dict(type='RandomColorJitter'),
    dict(type='RandomGaussianBlur'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
