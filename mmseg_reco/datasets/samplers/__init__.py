# Licensed under the Apache License, Version 2.0.
from .multi_source_sampler import MultiSourceSampler
from .seeded_batch_sampler import SeededBatchSampler, seed_generators

__all__ = ['MultiSourceSampler', 'SeededBatchSampler', 'seed_generators']
