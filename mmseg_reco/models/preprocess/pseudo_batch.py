# Licensed under the Apache License, Version 2.0.
from typing import NamedTuple

from torch import Tensor

IGNORE_INDEX = 255


class PseudoBatch(NamedTuple):
    """A batch of images with what the teacher says about every pixel.

    Attributes:
        images (Tensor): (B, 3, H, W), floating point.
        labels (Tensor): (B, H, W), int64; pseudo-labels in [0, 254] and 255 = ignored.
        confidence (Tensor): (B, H, W), floating point in [0, 1]; the teacher's probability of
            the pseudo-label.
    """

    images: Tensor
    labels: Tensor
    confidence: Tensor
