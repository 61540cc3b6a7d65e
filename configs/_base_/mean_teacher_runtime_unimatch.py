# Licensed under the Apache License, Version 2.0.
# UniMatch has no teacher: with a momentum of 1 it is the student of now, and one of them is
# validated.
_base_ = './mean_teacher_runtime.py'
val_cfg = dict(type='ValLoop')
default_hooks = dict(checkpoint=dict(save_best='mIoU', interval=5000))
custom_hooks = [
    *_base_.custom_hooks[:3],  # of default_runtime
    dict(type='MeanTeacherHook', momentum=1.0),
    dict(type='SamplingHook'),
]
