# Licensed under the Apache License, Version 2.0.
from .deeplabv2_head import DeepLabV2Head
from .feature_tap import FeatureTap, class_logits, default_tap
from .projector import Projector
from .region_mask2former_head import RegionMask2FormerHead
from .region_maskformer_head import RegionMaskFormerHead
from .region_query_head import QueryOutput, semantic_scores

__all__ = [
    'DeepLabV2Head', 'FeatureTap', 'Projector', 'QueryOutput', 'RegionMask2FormerHead',
    'RegionMaskFormerHead', 'class_logits', 'default_tap', 'semantic_scores'
]
