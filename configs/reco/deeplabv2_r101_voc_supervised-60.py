# Licensed under the Apache License, Version 2.0.
# DeepLabV2 R101, PASCAL VOC: 60 labelled images.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8.py',
    '../_base_/datasets/voc.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(ann_file='splits/60/0/labeled.txt'))
