# Licensed under the Apache License, Version 2.0.
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = 255


class PseudoBatch(NamedTuple):
    """A batch of images with what the teacher says about every pixel.

    Attributes:
        images (Tensor): (B, 3, H, W), floating point.
        labels (Tensor): (B, H, W), int64, or uint8 inside the augmentations; pseudo-labels in
            [0, 254] and 255 = ignored.
        confidence (Tensor): (B, H, W), floating point in [0, 1]; the teacher's probability of
            the pseudo-label.
        origin (Tensor, optional): (B, H, W), int64; where each pixel comes from: its place in the
            flattened weak views (B, H', W'), and -1 where it comes from nowhere. Augmentations
            move it as they move labels, so that whatever the teacher computed on the weak views
            can be looked up for a strong view.
    """

    images: Tensor
    labels: Tensor
    confidence: Tensor
    origin: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> 'PseudoBatch':
        """Apply a function to every tensor that is there."""
        return PseudoBatch(*(None if x is None else function(x) for x in self))

    @staticmethod
    def cat(batches: Sequence['PseudoBatch']) -> 'PseudoBatch':
        """Put batches together, image after image."""
        return PseudoBatch(*(None if fields[0] is None else torch.cat(fields)
                             for fields in zip(*batches, strict=True)))

    def track_origin(self) -> 'PseudoBatch':
        """The batch with an ``origin`` that says: every pixel is where it was."""
        origin = torch.arange(self.labels.numel(), device=self.labels.device)
        return self._replace(origin=origin.view_as(self.labels))


#: What a pixel that comes from nowhere holds, in the order of the fields of a PseudoBatch.
NOWHERE = (0, IGNORE_INDEX, 0, -1)


def pairs(source: PseudoBatch, target: PseudoBatch) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Go over the tensors of two batches, with what a pixel from nowhere holds in each."""
    for old, new, fill in zip(source, target, NOWHERE, strict=True):
        if old is not None:
            yield old, new, fill
