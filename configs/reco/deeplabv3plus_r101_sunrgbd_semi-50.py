# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV3+ R101, SUN RGB-D: 50 labelled images, 5,235 unlabelled ones.
_base_ = [
    '../_base_/models/deeplabv3plus_r101-d16_mean-teacher.py',
    '../_base_/datasets/sunrgbd_semi.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
model = dict(segmentor=dict(decode_head=dict(num_classes=37)))
train_dataloader = dict(
    dataset=dict(
        labeled='splits/50/0/labeled.txt', unlabeled='splits/50/0/unlabeled.txt'))
