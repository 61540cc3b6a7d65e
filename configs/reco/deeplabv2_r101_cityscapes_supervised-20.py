# Licensed under the Apache License, Version 2.0.
# DeepLabV2 R101, Cityscapes: 20 labelled images.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=(512, 512)), decode_head=dict(num_classes=19))
train_dataloader = dict(dataset=dict(ann_file='splits/20/0/labeled.txt'))
