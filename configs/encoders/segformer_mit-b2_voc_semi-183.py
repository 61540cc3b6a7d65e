# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, SegFormer B2, PASCAL VOC: 183 labelled images, 10,399 unlabelled ones.
_base_ = [
    '../_base_/models/segformer_mit-b2.py',
    '../_base_/datasets/voc_512_semi.py',
    '../_base_/schedules/schedule_warmup_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model)
train_dataloader = dict(
    dataset=dict(
        labeled='splits/183/0/labeled.txt', unlabeled='splits/183/0/unlabeled.txt'))
# mmseg's for SegFormer; the projector is as new as the head.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            pos_block=dict(decay_mult=0.),
            norm=dict(decay_mult=0.),
            head=dict(lr_mult=10.),
            projector=dict(lr_mult=10.))))
