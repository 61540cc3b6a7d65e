# Licensed under the Apache License, Version 2.0.
"""InfoNCE over sampled keys, without ever holding [queries, keys, channels].

On the CPU the products are sparse, over the sampled pairs alone; elsewhere keys are gathered in
blocks; where there are fewer pixels than draws, the dense product is the smaller one.
"""
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The two CSR products used here have been stable since torch 2.1.
warnings.filterwarnings('ignore', message='Sparse CSR tensor support is in beta state')

# Elements of a gathered block of keys, away from the CPU: 256 MiB of float32.
GATHER_ELEMENTS = 2**26


def _csr(values: Tensor, pixels: Tensor, num_pixels: int) -> Tensor:
    rows, per_row = pixels.shape
    crow = torch.arange(0, rows * per_row + 1, per_row, device=pixels.device)
    return torch.sparse_csr_tensor(
        crow, pixels.reshape(-1), values.reshape(-1), (rows, num_pixels), check_invariants=False)


def _blocks(pixels: Tensor, channels: int) -> Iterator[slice]:
    step = max(1, GATHER_ELEMENTS // (pixels.size(1) * channels))
    return (slice(start, start + step) for start in range(0, pixels.size(0), step))


def sampled_products(queries: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
    """Inner products of every query with its own keys.

    Args:
        queries (Tensor): Shape (R, D), float32 or float64.
        keys (Tensor): Shape (N, D), of the same dtype.
        pixels (Tensor): Rows of ``keys`` of each query. Shape (R, M), int64.

    Returns:
        Tensor: Shape (R, M).
    """
    if keys.size(0) <= pixels.size(1):
        return (queries @ keys.t()).gather(1, pixels)
    if queries.device.type == 'cpu':
        pattern = _csr(queries.new_zeros(pixels.shape), pixels, keys.size(0))
        product = torch.sparse.sampled_addmm(pattern, queries, keys.t(), beta=0.)
        return product.values().view(pixels.shape)
    return torch.cat([
        torch.einsum('rd,rmd->rm', queries[block], keys[pixels[block]])
        for block in _blocks(pixels, keys.size(1))
    ])


def weighted_sums(weights: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
    """Sum of every query's own keys, weighted.

    Args:
        weights (Tensor): Shape (R, M).
        keys (Tensor): Shape (N, D), of the same dtype.
        pixels (Tensor): Rows of ``keys`` of each query. Shape (R, M), int64.

    Returns:
        Tensor: Shape (R, D).
    """
    if keys.size(0) <= pixels.size(1):
        return weights.new_zeros(len(weights), len(keys)).scatter_add_(1, pixels, weights) @ keys
    if weights.device.type == 'cpu':
        return _csr(weights, pixels, keys.size(0)) @ keys
    return torch.cat([
        torch.einsum('rm,rmd->rd', weights[block], keys[pixels[block]])
        for block in _blocks(pixels, keys.size(1))
    ])


class _SampledContrast(torch.autograd.Function):
    """The keys carry no gradient, so the queries' gradient is known as soon as the softmax is."""

    @staticmethod
    def forward(ctx, queries: Tensor, positives: Tensor, keys: Tensor, pixels: Tensor,
                temperature: float) -> Tensor:
        positive = (queries * positives).sum(1) / temperature
        negatives = sampled_products(queries, keys, pixels).div_(temperature)
        normaliser = torch.logaddexp(positive, negatives.logsumexp(1))
        if ctx.needs_input_grad[0]:
            probs = negatives.sub_(normaliser[:, None]).exp_()
            gradient = weighted_sums(probs, keys, pixels)
            gradient.addcmul_((positive - normaliser).expm1()[:, None], positives)
            ctx.save_for_backward(gradient.div_(temperature))
        return normaliser - positive

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        gradient, = ctx.saved_tensors
        return grad[:, None] * gradient, None, None, None, None


def sampled_contrast(queries: Tensor, positives: Tensor, keys: Tensor, pixels: Tensor,
                     temperature: float) -> Tensor:
    r"""InfoNCE of each query against one positive and its own sampled negatives.

    .. math:: -\log \frac{\exp(q \cdot p / \tau)}
        {\exp(q \cdot p / \tau) + \sum_m \exp(q \cdot k_m / \tau)}

    Memory grows with R (M + D); the gradient reaches the queries alone.

    Args:
        queries (Tensor): Unit vectors. Shape (R, D), float32 or float64.
        positives (Tensor): Unit vector of the positive key of each query. Shape (R, D).
        keys (Tensor): Unit vectors of all pixels. Shape (N, D).
        pixels (Tensor): Negative keys of each query, as rows of ``keys``. Shape (R, M), int64.
        temperature (float): :math:`\tau` > 0.

    Returns:
        Tensor: Loss of each query. Shape (R,).
    """
    return _SampledContrast.apply(queries, positives, keys, pixels, temperature)
