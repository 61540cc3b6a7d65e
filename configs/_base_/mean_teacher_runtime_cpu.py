# Licensed under the Apache License, Version 2.0.
# In a short schedule the teacher must keep up: a decay of 0.95 instead of 0.99. Convolutions are
# quicker channels last.
_base_ = './mean_teacher_runtime.py'
custom_hooks = [
    *_base_.custom_hooks[:3],  # of default_runtime
    dict(type='MeanTeacherHook', momentum=0.05),
    dict(type='SamplingHook'),
    dict(type='ChannelsLastHook'),
    dict(type='ClassRelationHook'),
]
