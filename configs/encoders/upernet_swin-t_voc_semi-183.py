# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, UPerNet on Swin-T, PASCAL VOC: 183 labelled images.
_base_ = [
    '../_base_/models/upernet_swin-t.py',
    '../_base_/datasets/voc_512_semi.py',
    '../_base_/schedules/schedule_warmup_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model)
train_dataloader = dict(
    dataset=dict(
        labeled='splits/183/0/labeled.txt', unlabeled='splits/183/0/unlabeled.txt'))
# mmseg's for Swin.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.),
            relative_position_bias_table=dict(decay_mult=0.),
            norm=dict(decay_mult=0.))))
