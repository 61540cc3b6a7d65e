# Licensed under the Apache License, Version 2.0.
from .overlap import mask_average_pool, pairwise_dice
from .structures import RegionPrediction, RegionTarget

__all__ = ['RegionPrediction', 'RegionTarget', 'mask_average_pool', 'pairwise_dice']
