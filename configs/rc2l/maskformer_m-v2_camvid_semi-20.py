# Licensed under the Apache License, Version 2.0.
# RC2L (a reconstruction), MaskFormer MobileNetV2, CamVid at half resolution, for two CPU cores: 20
# labelled images, 347 unlabelled ones.
_base_ = [
    '../_base_/models/maskformer_m-v2-d32_rc2l.py',
    '../_base_/datasets/camvid_half_semi.py',
    '../_base_/schedules/schedule_adamw_cpu.py',
    '../_base_/mean_teacher_runtime_cpu.py',
]
# A fresh head has no regions to teach.
model = dict(semi_train_cfg=dict(burn_in=400, ramp_up=200))
train_dataloader = dict(
    dataset=dict(
        labeled='splits/20/0/labeled.txt', unlabeled='splits/20/0/unlabeled.txt'))
default_hooks = dict(checkpoint=dict(interval=500))
custom_hooks = _base_.custom_hooks[:-1]  # all but ClassRelationHook, which reads ReCoLoss
