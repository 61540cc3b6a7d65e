# Licensed under the Apache License, Version 2.0.
# RC2L (a reconstruction), MaskFormer R101, Cityscapes: 100 labelled images (1/30 of 2,975), 2,875
# unlabelled ones.
_base_ = [
    '../_base_/models/maskformer_r101-d32_rc2l.py',
    '../_base_/datasets/cityscapes_full_semi.py',
    '../_base_/schedules/schedule_adamw_40k.py',
    '../_base_/mean_teacher_runtime_rc2l.py',
]
num_classes = 19
model = dict(
    segmentor=dict(
        data_preprocessor=dict(size=(512, 1024)),
        decode_head=dict(
            num_classes=num_classes, loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]))))
train_dataloader = dict(
    dataset=dict(
        labeled='splits/100/0/labeled.txt', unlabeled='splits/100/0/unlabeled.txt'))
