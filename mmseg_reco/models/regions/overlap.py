# Licensed under the Apache License, Version 2.0.
"""Linear passes over the pixels, on which all region losses stand: overlap and pooling.

Mask average pooling is RC²L's (arXiv 2204.13314); the formulas are this project's reconstruction.

Pixels that are not valid are replaced, not multiplied, by zero: whatever a mask holds there, even
NaN, reaches neither result nor gradient. Features need to be finite everywhere.
"""
import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision is too coarse for sums over pixels; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def soft_dice(overlap: Tensor, area: Tensor, other_area: Tensor) -> Tensor:
    r"""Dice of two masks from their sums, :math:`(2 \sum a b + 1) / (\sum a + \sum b + 1)`.

    Args:
        overlap (Tensor): :math:`\sum a b`.
        area (Tensor): :math:`\sum a`.
        other_area (Tensor): :math:`\sum b`.

    Returns:
        Tensor: In (0, 1] for masks in [0, 1], with equality where both are empty. Shape by
        broadcasting.
    """
    return (2 * overlap + 1) / (area + other_area + 1)


def pairwise_dice(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Soft Dice (:func:`soft_dice`) of every student mask with every teacher mask of its image.

    Sums run over valid pixels, in float32 or, for a float64 student, in float64.

    Args:
        student (Tensor): In [0, 1]. Shape (B, N, h, w).
        teacher (Tensor): In [0, 1]. Shape (B, T, h, w).
        valid (Tensor): Shape (B, h, w), bool.

    Returns:
        Tensor: In (0, 1]. Shape (B, T, N).
    """
    with torch.autocast(student.device.type, enabled=False):
        a = at_least_float32(torch.where(valid[:, None], student, 0).flatten(2))
        b = torch.where(valid[:, None], teacher, 0).flatten(2).to(a.dtype)
        return soft_dice(b @ a.mT, a.sum(2)[:, None], b.sum(2)[:, :, None])


def mask_average_pool(features: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    r"""Mean feature of each region, weighted by its mask (mask average pooling).

    :math:`r = \sum m f / (\sum m + 10^{-6})` over valid pixels, in float32 or, for float64
    features, in float64.

    Args:
        features (Tensor): Finite. Shape (B, C, h, w).
        masks (Tensor): In [0, 1]. Shape (B, N, h, w).
        valid (Tensor): Shape (B, h, w), bool.

    Returns:
        Tensor: Zero for an empty mask. Shape (B, N, C).
    """
    with torch.autocast(features.device.type, enabled=False):
        values = at_least_float32(features.flatten(2))
        weights = torch.where(valid[:, None], masks, 0).flatten(2).to(values.dtype)
        return weights @ values.mT / (weights.sum(2, keepdim=True) + 1e-6)
