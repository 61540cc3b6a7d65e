# Licensed under the Apache License, Version 2.0.
# MaskFormer R101, Cityscapes: 100 labelled images.
_base_ = [
    '../_base_/models/maskformer_r101-d32.py',
    '../_base_/datasets/cityscapes_full.py',
    '../_base_/schedules/schedule_adamw_40k.py',
    '../_base_/default_runtime.py',
]
num_classes = 19
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(
        type='RegionMaskFormerHead',  # leaves ignored pixels out
        num_classes=num_classes,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])))
train_dataloader = dict(dataset=dict(ann_file='splits/100/0/labeled.txt'))
