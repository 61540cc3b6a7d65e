# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV2 R101, PASCAL VOC: 60 labelled images, 10,522 unlabelled ones.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8_mean-teacher.py',
    '../_base_/datasets/voc_semi.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
train_dataloader = dict(
    dataset=dict(
        labeled='splits/60/0/labeled.txt', unlabeled='splits/60/0/unlabeled.txt'))
