# Licensed under the Apache License, Version 2.0.
# UniMatch's streams, DeepLabV3+ MobileNetV2, CamVid at half resolution, for two CPU cores. In a
# short schedule: ReCo's weak view and augmentation, and a lower threshold.
_base_ = [
    '../_base_/models/deeplabv3plus_m-v2-d16_mean-teacher.py',
    '../_base_/datasets/camvid_half_semi.py',
    '../_base_/schedules/schedule_cpu.py',
    '../_base_/mean_teacher_runtime_unimatch.py',
]
model = dict(
    losses=[],
    mix=dict(type='RandomCutMix'),
    loss_unsup=dict(
        type='PseudoLabelLoss', strong_threshold=0.8, weight_by='pixel', loss_weight=0.5),
    semi_train_cfg=dict(strong_views=2, feature_dropout=0.5))
train_dataloader = dict(
    dataset=dict(
        labeled='splits/20/0/labeled.txt', unlabeled='splits/20/0/unlabeled.txt'))
default_hooks = dict(checkpoint=dict(interval=500))
