# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV2 R101, Cityscapes: 20 labelled images, 2,955 unlabelled ones.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8_mean-teacher.py',
    '../_base_/datasets/cityscapes_semi.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
model = dict(
    segmentor=dict(data_preprocessor=dict(size=(512, 512)), decode_head=dict(num_classes=19)),
    rescale_crop=dict(type='BatchRescaleCrop', ratio_range=(1.0, 1.0)))
train_dataloader = dict(
    dataset=dict(
        labeled='splits/20/0/labeled.txt', unlabeled='splits/20/0/unlabeled.txt'))
