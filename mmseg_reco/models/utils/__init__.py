# Licensed under the Apache License, Version 2.0.
from .dist_utils import global_avg_factor, summed_over_ranks
from .resize import resize_maps, take_nearest
from .vectors import unit_vectors

__all__ = [
    'global_avg_factor', 'resize_maps', 'summed_over_ranks', 'take_nearest', 'unit_vectors'
]
