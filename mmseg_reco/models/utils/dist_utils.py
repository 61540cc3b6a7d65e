# Licensed under the Apache License, Version 2.0.
"""Averages over the batch of all ranks, so that n processes train as one with their whole batch.

Every function here is a collective: all ranks must call it in every step, whatever their batch
holds. With one process it costs nothing.
"""
import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor


def summed_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, detached; the input is not changed."""
    values = values.detach().clone()
    all_reduce(values)
    return values


def global_avg_factor(avg_factor: Tensor) -> Tensor:
    """What to divide a rank's sum by, so that DDP's mean over ranks is the mean over all pixels.

    Args:
        avg_factor (Tensor): Pixels that this rank's sum runs over, or the sum of their weights.
            Scalar.

    Returns:
        Tensor: Its mean over all ranks; positive, also where no rank has a pixel.
    """
    total = summed_over_ranks(avg_factor)
    return torch.where(total > 0, total, 1) / get_world_size()
