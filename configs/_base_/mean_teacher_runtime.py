# Licensed under the Apache License, Version 2.0.
# What a student and its teacher need around them.
_base_ = './default_runtime.py'
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(save_best='teacher/mIoU'))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='MeanTeacherHook'),
    dict(type='SamplingHook'),
    dict(type='ClassRelationHook'),
]
