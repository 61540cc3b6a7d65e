# Licensed under the Apache License, Version 2.0.
from .class_relation_hook import ClassRelationHook
from .mean_teacher_hook import MeanTeacherHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .sampling_hook import SamplingHook

__all__ = ['ClassRelationHook', 'MeanTeacherHook', 'SafeCheckpointHook', 'SamplingHook']
