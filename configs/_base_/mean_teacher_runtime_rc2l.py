# Licensed under the Apache License, Version 2.0.
# For RC2L in a long schedule: a decay of 0.999.
_base_ = './mean_teacher_runtime.py'
custom_hooks = [
    *_base_.custom_hooks[:3],  # of default_runtime
    dict(type='MeanTeacherHook', momentum=0.001),
    dict(type='SamplingHook'),
]
