# Licensed under the Apache License, Version 2.0.
"""Averages over the batch of all ranks, so that n processes train as one with their whole batch.

Every function here is a collective: all ranks must call it in every step, whatever their batch
holds. With one process it costs nothing.
"""
import torch.nn as nn
from mmengine.dist import all_reduce, get_world_size
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor


def summed_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor of one shape over all ranks; without gradient, the input is kept."""
    values = values.detach().clone()
    all_reduce(values)
    return values


def mean_count(count: Tensor) -> Tensor:
    """What to divide a rank's sum by, so that DDP's mean over ranks is the mean over all pixels.

    Args:
        count (Tensor): Pixels that this rank's sum runs over. Scalar, int64.

    Returns:
        Tensor: The mean count of all ranks; positive, also where no rank has a pixel.
    """
    return summed_over_ranks(count).clamp_min(1) / get_world_size()


def average_over_ranks(loss: CrossEntropyLoss) -> None:
    """Make a cross-entropy over labelled pixels average over those of all ranks.

    Stock cross-entropy divides by the pixels of its own rank, so that with partial labels a pixel
    counts for more on a rank that has few of them. Losses with class weights are left alone.

    Args:
        loss (CrossEntropyLoss): Changed in place; ``avg_non_ignore`` is on.
    """

    def rescale(module: nn.Module, args: tuple, kwargs: dict, value: Tensor) -> Tensor:
        if get_world_size() == 1 or module.class_weight is not None:
            return value
        count = (args[1] != kwargs.get('ignore_index', -100)).sum()
        return value * (count / mean_count(count))

    loss.register_forward_hook(rescale, with_kwargs=True)
