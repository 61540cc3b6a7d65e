# Licensed under the Apache License, Version 2.0.
from .channels_last_hook import ChannelsLastHook
from .check_data_hook import CheckDataHook
from .class_relation_hook import ClassHistory, ClassRelationHook
from .mean_teacher_hook import MeanTeacherHook
from .numerical_watch_hook import NumericalWatchHook
from .prediction_panel_hook import PredictionPanelHook
from .preemption_hook import EXIT_PREEMPTED, PreemptionHook
from .pseudo_label_quality_hook import PseudoLabelHistory, PseudoLabelQualityHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .sampling_hook import SamplingHook

__all__ = [
    'EXIT_PREEMPTED',
    'ChannelsLastHook',
    'CheckDataHook',
    'ClassHistory',
    'ClassRelationHook',
    'MeanTeacherHook',
    'NumericalWatchHook',
    'PredictionPanelHook',
    'PreemptionHook',
    'PseudoLabelHistory',
    'PseudoLabelQualityHook',
    'SafeCheckpointHook',
    'SamplingHook',
]
