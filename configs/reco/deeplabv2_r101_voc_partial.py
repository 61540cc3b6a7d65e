# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV2 R101, PASCAL VOC: one labelled pixel of each class (p0) in each of
# 10,582 images.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8_mean-teacher.py',
    '../_base_/datasets/voc_semi.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
model = dict(semi_train_cfg=dict(self_label_threshold=0.97))
train_dataloader = dict(dataset=dict(dataset=dict(type='PartialVOCDataset', level='p0', seed=0)))
