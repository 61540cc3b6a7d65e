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
def _quarter(rows, channel, channels, drawn):
    return tl.load(rows + channel[None, :], mask=drawn[:, None] & (channel < channels)[None, :],
                   other=0.).to(tl.float32)


@triton.jit
def _attend(queries, keys, pixels, active, lse, means, per_query, channels, temperature, eps,
            TILE: tl.constexpr, QUARTER: tl.constexpr):
    """One program a query: gather a tile of keys, continue softmaxes and means with it.

    Nothing is exchanged between the rows of a tile until the end: each continues a softmax and a
    mean of its own. Keys come in quarters, so that few threads share a row and its sums.
    """
    query = tl.program_id(0).to(tl.int64)
    c0 = tl.arange(0, QUARTER)
    c1, c2, c3 = c0 + QUARTER, c0 + 2 * QUARTER, c0 + 3 * QUARTER
    vector = queries + query * channels
    q0 = tl.load(vector + c0, mask=c0 < channels, other=0.) / temperature
    q1 = tl.load(vector + c1, mask=c1 < channels, other=0.) / temperature
    q2 = tl.load(vector + c2, mask=c2 < channels, other=0.) / temperature
    q3 = tl.load(vector + c3, mask=c3 < channels, other=0.) / temperature
    highest = tl.full([TILE], -float('inf'), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    m0 = tl.zeros([TILE, QUARTER], tl.float32)
    m1 = tl.zeros([TILE, QUARTER], tl.float32)
    m2 = tl.zeros([TILE, QUARTER], tl.float32)
    m3 = tl.zeros([TILE, QUARTER], tl.float32)
    # A query that is not active has no keys.
    for start in range(0, tl.where(tl.load(active + query), per_query, 0), TILE):
        draw = start + tl.arange(0, TILE)
        drawn = draw < per_query
        pixel = tl.load(pixels + query * per_query + draw, mask=drawn, other=0)
        rows = keys + pixel[:, None] * channels
        k0 = _quarter(rows, c0, channels, drawn)
        k1 = _quarter(rows, c1, channels, drawn)
        k2 = _quarter(rows, c2, channels, drawn)
        k3 = _quarter(rows, c3, channels, drawn)
        norm = tl.sqrt(tl.sum(k0 * k0 + k1 * k1 + k2 * k2 + k3 * k3, 1))
        inverse = tl.where(norm > eps, 1 / norm, 0.)
        product = tl.sum(k0 * q0[None, :] + k1 * q1[None, :] + k2 * q2[None, :] + k3 * q3[None, :],
                         1)
        logits = tl.where(drawn, product * inverse, -float('inf'))
        before = highest
        highest = tl.maximum(before, logits)
        fade = tl.where(before == highest, 1., tl.exp(before - highest))  # of -inf twice, too
        weights = tl.where(drawn, tl.exp(logits - highest), 0.)
        total = total * fade + weights
        fade = fade[:, None]
        weights = (weights * inverse)[:, None]
        m0 = m0 * fade + k0 * weights
        m1 = m1 * fade + k1 * weights
        m2 = m2 * fade + k2 * weights
        m3 = m3 * fade + k3 * weights
    top = tl.max(highest, 0)
    fade = tl.where(highest > -float('inf'), tl.exp(highest - top), 0.)
    whole = tl.sum(total * fade, 0)
    tl.store(lse + query, tl.log(whole) + top)
    fade = (fade / tl.where(whole > 0, whole, 1.))[:, None]
    mean = means + query * channels
    tl.store(mean + c0, tl.sum(m0 * fade, 0), mask=c0 < channels)
    tl.store(mean + c1, tl.sum(m1 * fade, 0), mask=c1 < channels)
    tl.store(mean + c2, tl.sum(m2 * fade, 0), mask=c2 < channels)
    tl.store(mean + c3, tl.sum(m3 * fade, 0), mask=c3 < channels)


def fused_attention(queries: Tensor, keys: Tensor, pixels: Tensor, active: Tensor,
                    temperature: float) -> tuple[Tensor, Tensor]:
    """As ``sampled_contrast.sampled_attention``, for float32 queries.

    Keys are read in their own precision: bfloat16 halves the traffic, which is what it costs.
    """
    # Rows side by side: a copy, unless the embeddings are channels-last.
    keys = keys.flatten(0, 1).contiguous()
    lse = queries.new_empty(len(queries))
    means = torch.empty_like(queries, memory_format=torch.contiguous_format)
    quarter = max(1, triton.next_power_of_2(keys.size(1)) // 4)
    with torch.cuda.device_of(queries):
        _attend[(len(queries), )](
            queries.contiguous(), keys, pixels.contiguous(), active, lse, means, pixels.size(1),
            keys.size(1), temperature, EPS, TILE=max(1, TILE_ELEMENTS // (4 * quarter)),
            QUARTER=quarter)
    return lse, means
