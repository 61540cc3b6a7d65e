# Licensed under the Apache License, Version 2.0.
"""Two linear passes over the pixels, on which all region losses stand: overlap and pooling."""
import torch
from torch import Tensor


def pairwise_dice(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    r"""Soft Dice of every student mask with every teacher mask of the same image.

    :math:`d(a, b) = (2 \sum a b + 1) / (\sum a + \sum b + 1)`, sums over valid pixels. In float32
    at least.

    Args:
        student (Tensor): In [0, 1]. Shape (B, N, h, w).
        teacher (Tensor): In [0, 1]. Shape (B, T, h, w).
        valid (Tensor): Shape (B, h, w), bool.

    Returns:
        Tensor: In (0, 1]. Shape (B, T, N).
    """
    with torch.autocast(student.device.type, enabled=False):
        a = (student * valid[:, None]).flatten(2)
        b = (teacher * valid[:, None]).flatten(2)
        dtype = torch.promote_types(a.dtype, torch.float32)
        a, b = a.to(dtype), b.to(dtype)
        return (2 * b @ a.mT + 1) / (a.sum(2)[:, None] + b.sum(2)[:, :, None] + 1)


def mask_average_pool(features: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Mean feature of each region, weighted by its mask (mask average pooling).

    In float32 at least.

    Args:
        features (Tensor): Shape (B, C, h, w).
        masks (Tensor): In [0, 1]. Shape (B, N, h, w).
        valid (Tensor): Shape (B, h, w), bool.

    Returns:
        Tensor: Zero for an empty mask. Shape (B, N, C).
    """
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(features.dtype, torch.float32)
        weights = (masks * valid[:, None]).flatten(2).to(dtype)
        total = weights.sum(2, keepdim=True)
        return weights @ features.flatten(2).to(dtype).mT / total.clamp_min(1e-6)
