# Licensed under the Apache License, Version 2.0.
# PASCAL VOC as UniMatch shows it: 8 labelled and 8 unlabelled crops, both rescaled and flipped, and
# no colour jitter outside of the strong views.
_base_ = './voc_semi.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomRescaleCrop', crop_size=(321, 321), ratio_range=(0.5, 2.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=16,
    sampler=dict(batch_size=16),
    dataset=dict(dataset=dict(pipeline=train_pipeline), unlabeled_pipeline=train_pipeline))
