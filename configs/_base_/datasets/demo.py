# Licensed under the Apache License, Version 2.0.
# The procedural scenes that tools/demo.py draws, 64x96: 240 for training, 60 for validation. In 40
# of the training scenes one pixel of each class is labelled (p0).
dataset_type = 'DemoSceneDataset'
data_root = '{{$DEMO_DATA_ROOT:demo_output/data}}'
crop_size = (64, 96)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomRescaleCrop', crop_size=crop_size, ratio_range=(0.75, 1.5)),
    dict(type='RandomColorJitter', hue=(-0.05, 0.05)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='PartialLabelDataset',
        level='p0',
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            ann_file='labeled.txt',
            data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
            pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
