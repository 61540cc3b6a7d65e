# Licensed under the Apache License, Version 2.0.
from .color import BatchColorJitter, BatchGaussianBlur, BatchGrayscale
from .geometry import BatchFlip, BatchRescaleCrop
from .mixing import ClassMix, CutMix, CutOut, RandomCutMix
from .multi_branch import MultiBranchDataPreprocessor
from .pseudo_batch import IGNORE_INDEX, PseudoBatch

__all__ = [
    'IGNORE_INDEX',
    'BatchColorJitter',
    'BatchFlip',
    'BatchGaussianBlur',
    'BatchGrayscale',
    'BatchRescaleCrop',
    'ClassMix',
    'CutMix',
    'CutOut',
    'MultiBranchDataPreprocessor',
    'PseudoBatch',
    'RandomCutMix',
]
