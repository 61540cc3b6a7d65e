# Licensed under the Apache License, Version 2.0.
"""The one index that every sampler of ReCo draws from."""
from typing import NamedTuple

import torch
from torch import Tensor


class PixelIndex(NamedTuple):
    """Pixels of a mini-batch, sorted by class, the hard ones of a class first.

    The pixels of class ``c`` are ``order[start[c]:start[c] + count[c]]`` and its hard pixels the
    first ``hard_count[c]`` of them, so drawing from any of these sets is an offset into ``order``.

    Attributes:
        order (Tensor): Pixel ids, valid pixels first. Shape (N,), int64.
        start (Tensor): Where each class begins in ``order``. Shape (C,), int64.
        count (Tensor): Valid pixels of each class. Shape (C,), int64.
        hard_count (Tensor): Hard pixels of each class. Shape (C,), int64.
    """

    order: Tensor
    start: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    hard_count: Tensor


def build_pixel_index(labels: Tensor, hard: Tensor, num_classes: int) -> PixelIndex:
    """Sort pixels by class and, inside a class, hard before easy.

    Args:
        labels (Tensor): Class of every pixel; anything outside [0, C) is not valid. Shape (N,),
            int64.
        hard (Tensor): Whether a pixel may become an active query. Shape (N,), bool.
        num_classes (int): C.

    Returns:
        PixelIndex: The sorted index; no host synchronisation is needed to build it.
    """
    valid = (labels >= 0) & (labels < num_classes)
    # Two buckets a class, (hard, easy), and a last one for everything that is not valid.
    bucket = torch.where(valid, 2 * labels + (~hard).long(), 2 * num_classes)
    # The narrowest integer sorts fastest.
    key = bucket.to(torch.int16) if 2 * num_classes < 2**15 else bucket
    key, order = key.sort()
    bounds = torch.searchsorted(
        key, torch.arange(2 * num_classes + 1, dtype=key.dtype, device=key.device))
    start, hard_end = bounds[:-1].view(num_classes, 2).unbind(1)
    return PixelIndex(
        order=order,
        start=start,
        count=bounds[2::2] - start,
        hard_count=hard_end - start)


def uniform(*shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Draw uniform numbers in [0, 1), float64: float32 is too coarse to name one of 10^6 pixels."""
    return torch.rand(*shape, dtype=torch.float64, device=device, generator=generator)


def pick(index: PixelIndex, classes: Tensor, sizes: Tensor, draws: Tensor) -> Tensor:
    """Turn uniform numbers into pixels of the given classes.

    Args:
        index (PixelIndex): The index to draw from.
        classes (Tensor): Class of each draw, int64, broadcastable to ``draws``.
        sizes (Tensor): How many leading pixels of a class may be drawn. Shape (C,), int64.
        draws (Tensor): Uniform numbers in [0, 1). Any shape, float64.

    Returns:
        Tensor: Pixel ids, int64, of the shape of ``draws``. A class of size 0 gives an arbitrary
        pixel of the batch, for the caller to mask.
    """
    # Since `take` is the fastest way to look up single numbers.
    offset = index.start.take(classes) + (draws * sizes.take(classes)).long()
    # A draw of NaN, after an overflow, becomes the lowest integer: on a GPU the end of the process.
    return index.order.take(offset.clamp_(0, index.order.numel() - 1))
