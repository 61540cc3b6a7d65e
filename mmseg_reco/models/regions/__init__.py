# Licensed under the Apache License, Version 2.0.
from .matching import HungarianMatcher
from .overlap import mask_average_pool, pairwise_dice
from .structures import RegionPrediction, RegionTarget
from .target import region_target

__all__ = [
    'HungarianMatcher', 'RegionPrediction', 'RegionTarget', 'mask_average_pool', 'pairwise_dice',
    'region_target'
]
