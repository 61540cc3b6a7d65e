# Licensed under the Apache License, Version 2.0.
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of maps (B, C, h, w), left alone where the size is right."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size, mode='bilinear')


def take_nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of maps (..., H, W) of any dtype to (..., h, w).

    The same pixels as ``F.interpolate(mode='nearest')``, without its way through float, which is
    exact up to 2^24 only.
    """
    for dim, length in zip((-2, -1), size, strict=True):
        source = maps.size(dim)
        if source != length:
            index = torch.arange(length, device=maps.device) * source // length
            maps = maps.index_select(dim, index)
    return maps
