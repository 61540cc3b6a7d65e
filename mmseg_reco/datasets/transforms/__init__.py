# Licensed under the Apache License, Version 2.0.
from .augment import RandomColorJitter, RandomGaussianBlur, RandomRescaleCrop
from .formatting import MultiBranch, PackSemiSegInputs
from .hide_labels import HideLabels
from .loading import LoadCheckedAnnotations, LoadCheckedImage
from .sparsify_labels import SparsifyLabels

__all__ = [
    'HideLabels',
    'LoadCheckedAnnotations',
    'LoadCheckedImage',
    'MultiBranch',
    'PackSemiSegInputs',
    'RandomColorJitter',
    'RandomGaussianBlur',
    'RandomRescaleCrop',
    'SparsifyLabels',
]
