# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, UPerNet on DINOv2's ViT-S/14, PASCAL VOC: 183 labelled images.
_base_ = [
    '../_base_/models/upernet_dinov2-s.py',
    '../_base_/datasets/voc_518_semi.py',
    '../_base_/schedules/schedule_warmup_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
custom_imports = dict(imports=['mmpretrain.models', 'mmseg_reco'])
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model)
train_dataloader = dict(
    dataset=dict(
        labeled='splits/183/0/labeled.txt', unlabeled='splits/183/0/unlabeled.txt'))
# UniMatch V2's for DINOv2: 5e-6 for the encoder, 40 times as much for all else.
optim_wrapper = dict(
    optimizer=dict(lr=2e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.025))))
