# Licensed under the Apache License, Version 2.0.
# DeepLabV3+ R101, SUN RGB-D: 50 labelled images.
_base_ = [
    '../_base_/models/deeplabv3plus_r101-d16.py',
    '../_base_/datasets/sunrgbd.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(num_classes=37))
train_dataloader = dict(dataset=dict(ann_file='splits/50/0/labeled.txt'))
