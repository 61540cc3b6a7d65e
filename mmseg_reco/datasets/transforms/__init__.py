# Licensed under the Apache License, Version 2.0.
from .augment import RandomColorJitter, RandomGaussianBlur, RandomRescaleCrop
from .formatting import MultiBranch, PackSemiSegInputs
from .hide_labels import HideLabels

__all__ = [
    'HideLabels',
    'MultiBranch',
    'PackSemiSegInputs',
    'RandomColorJitter',
    'RandomGaussianBlur',
    'RandomRescaleCrop',
]
