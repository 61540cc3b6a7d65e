# Licensed under the Apache License, Version 2.0.
"""A training pipeline as mmseg's own configs have it."""

STOCK_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(64, 48), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Pad', size=(32, 32)),
    dict(type='PackSegInputs', meta_keys=('img_path', 'flip', 'img_shape')),
]
