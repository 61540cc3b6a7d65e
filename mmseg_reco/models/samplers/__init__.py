# Licensed under the Apache License, Version 2.0.
from .key_sampler import ActiveKeySampler, RandomKeySampler
from .pixel_index import PixelIndex, build_pixel_index
from .query_sampler import ActiveQuerySampler, RandomQuerySampler

__all__ = [
    'ActiveKeySampler', 'ActiveQuerySampler', 'PixelIndex', 'RandomKeySampler',
    'RandomQuerySampler', 'build_pixel_index'
]
