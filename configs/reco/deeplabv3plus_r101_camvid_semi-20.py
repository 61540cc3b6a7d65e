# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV3+ R101, CamVid: 20 labelled images, 347 unlabelled ones.
_base_ = [
    '../_base_/models/deeplabv3plus_r101-d16_mean-teacher.py',
    '../_base_/datasets/camvid_semi.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
model = dict(
    segmentor=dict(data_preprocessor=dict(size=(360, 480)), decode_head=dict(num_classes=11)))
train_dataloader = dict(
    dataset=dict(
        labeled='splits/20/0/labeled.txt', unlabeled='splits/20/0/unlabeled.txt'))
