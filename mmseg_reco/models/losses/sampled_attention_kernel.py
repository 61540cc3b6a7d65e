# Licensed under the Apache License, Version 2.0.
"""Sampled attention in one pass over the keys. Needs Triton, so it is imported only on use."""
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..utils.vectors import EPS

# Elements of a tile of keys: 32 of each thread.
TILE_ELEMENTS = 2**12


@triton.jit
def attend(queries, keys, pixels, active, lse, means, per_query, channels, temperature, eps,
           TILE: tl.constexpr, CHANNELS: tl.constexpr):
    """One program a query: gather a tile of keys, continue the softmax and the mean with it."""
    query = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    real = channel < channels
    direction = tl.load(queries + query * channels + channel, mask=real, other=0.) / temperature
    highest = -float('inf')
    total = 0.
    mean = tl.zeros([CHANNELS], tl.float32)
    # A query that is not active has no keys.
    for start in range(0, tl.where(tl.load(active + query), per_query, 0), TILE):
        draw = start + tl.arange(0, TILE)
        drawn = draw < per_query
        pixel = tl.load(pixels + query * per_query + draw, mask=drawn, other=0)
        tile = tl.load(keys + pixel[:, None] * channels + channel[None, :],
                       mask=drawn[:, None] & real[None, :], other=0.).to(tl.float32)
        norm = tl.sqrt(tl.sum(tile * tile, 1))
        inverse = tl.where(norm > eps, 1 / norm, 0.)
        logits = tl.where(drawn, tl.sum(tile * direction[None, :], 1) * inverse, -float('inf'))
        before = highest
        highest = tl.maximum(before, tl.max(logits, 0))
        fade = tl.exp(before - highest)
        weights = tl.exp(logits - highest)
        total = total * fade + tl.sum(weights, 0)
        mean = mean * fade + tl.sum(tile * (weights * inverse)[:, None], 0)
    tl.store(lse + query, tl.log(total) + highest)
    mean = mean / tl.where(total > 0, total, 1.)
    tl.store(means + query * channels + channel, mean, mask=real)


def fused_attention(queries: Tensor, keys: Tensor, pixels: Tensor, active: Tensor,
                    temperature: float) -> tuple[Tensor, Tensor]:
    """As ``sampled_contrast.sampled_attention``, for float32 queries.

    Keys are read in their own precision: bfloat16 halves the traffic, which is what it costs.
    """
    # Rows side by side: a copy, unless the embeddings are channels-last.
    keys = keys.flatten(0, 1).contiguous()
    lse = queries.new_empty(len(queries))
    means = torch.empty_like(queries, memory_format=torch.contiguous_format)
    channels = triton.next_power_of_2(keys.size(1))
    with torch.cuda.device_of(queries):
        attend[(len(queries), )](
            queries.contiguous(), keys, pixels.contiguous(), active, lse, means, pixels.size(1),
            keys.size(1), temperature, EPS, TILE=max(1, TILE_ELEMENTS // channels),
            CHANNELS=channels)
    return lse, means
