# Licensed under the Apache License, Version 2.0.
from .pseudo_label_loss import PseudoLabelLoss
from .reco_loss import ReCoLoss
from .region_class_consistency_loss import RegionClassConsistencyLoss
from .region_feature_contrastive_loss import RegionFeatureContrastiveLoss
from .region_loss import RegionLoss
from .region_mask_contrastive_loss import RegionMaskContrastiveLoss
from .semantic_mask_consistency_loss import SemanticMaskConsistencyLoss

__all__ = [
    'PseudoLabelLoss', 'ReCoLoss', 'RegionClassConsistencyLoss', 'RegionFeatureContrastiveLoss',
    'RegionLoss', 'RegionMaskContrastiveLoss', 'SemanticMaskConsistencyLoss'
]
