# Licensed under the Apache License, Version 2.0.
# Cityscapes at its full 2048x1024 in crops of 512x1024, rescaled by 0.5 to 2 as the field does:
# 2,975 training and 500 validation images in mmseg's own layout, which is the archives' folders
# with gtFine_labelTrainIds.png beside the other masks. Names in lists are 'city/city_0_0'.
_base_ = './cityscapes.py'
data_root = 'data/cityscapes'
crop_size = (512, 1024)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomRescaleCrop', crop_size=crop_size, ratio_range=(0.5, 2.0)),
    dict(type='RandomColorJitter'),
    dict(type='RandomGaussianBlur'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
files = dict(
    data_root=data_root,
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelTrainIds.png',
    ann_file='')
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
        **files))
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), **files))
test_dataloader = val_dataloader
