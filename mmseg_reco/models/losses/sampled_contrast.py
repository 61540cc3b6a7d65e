# Licensed under the Apache License, Version 2.0.
"""InfoNCE over sampled keys, without ever holding [queries, keys, channels].

The negatives of a query enter its loss and its gradient through two figures alone: the logsumexp
of their logits, and their mean weighted by the softmax of the logits. That is attention in which
each query has M keys of its own, here called sampled attention. It is computed in one of three
ways: on CUDA with Triton by a fused kernel, on the CPU block by block of the pixels, and else by
gathering keys.
"""
import importlib.util
import warnings
from collections.abc import Callable, Iterable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..utils.vectors import EPS, unit_vectors

# The CSR product used here has been stable since torch 2.1.
warnings.filterwarnings('ignore', message='Sparse CSR tensor support is in beta state')

# Elements of a block of keys on the CPU: 8 MiB of float32, for the cache that all cores share.
BLOCK_ELEMENTS = 2**21

# Elements of keys gathered at once away from the CPU: 256 MiB of float32.
GATHER_ELEMENTS = 2**26


def gathered_attention(queries: Tensor, keys: Tensor, pixels: Tensor, active: Tensor,
                       temperature: float) -> tuple[Tensor, Tensor]:
    """:func:`sampled_attention` by gathering: the reference, and the way without Triton."""
    rows = keys.flatten(0, 1)
    step = max(1, GATHER_ELEMENTS // (pixels.size(1) * rows.size(1)))
    parts = []
    for start in range(0, len(pixels), step):
        block = unit_vectors(rows[pixels[start:start + step]].to(queries.dtype))
        logits = torch.einsum('rd,rmd->rm', queries[start:start + step], block) / temperature
        parts.append((logits.logsumexp(1), torch.einsum('rm,rmd->rd', logits.softmax(1), block)))
    lse, means = (torch.cat(part) for part in zip(*parts, strict=True))
    return lse.masked_fill(~active, -torch.inf), means.masked_fill(~active[:, None], 0)


def blocked_attention(queries: Tensor, keys: Tensor, pixels: Tensor, active: Tensor,
                      temperature: float) -> tuple[Tensor, Tensor]:
    """:func:`sampled_attention` on the CPU.

    Draws jump about in a map far larger than the caches. So the pairs (query, pixel) are sorted by
    block of pixels; a block is brought in once, as rows of length one, and all its pairs are done
    while it lies in the cache: sparse products, and a softmax that is continued from block to
    block. Pairs of inactive queries go into one last block, which is skipped.
    """
    num_images, length, channels = keys.shape
    num_queries, per_query = pixels.shape
    # A block is either some whole images or a part of one.
    room = max(1, BLOCK_ELEMENTS // channels)
    images = min(num_images, max(1, room // length))
    parts = -(-length // room)
    part = -(-length // parts)
    num_blocks = -(-num_images // images) * parts

    image, place = torch.arange(num_images)[:, None], torch.arange(length)
    block = (image // images * parts + place // part).flatten()
    # The narrowest integers sort and move fastest.
    block = block.to(torch.uint8 if num_blocks < 256 else torch.int32)
    row = (image % images * part + place % part).flatten().int()
    pairs = block.index_select(0, pixels.flatten()).view_as(pixels)
    pairs = pairs.masked_fill_(~active[:, None], num_blocks).flatten()
    pairs, order = pairs.sort(stable=True)
    rows = row.index_select(0, pixels.flatten().index_select(0, order))
    # On the CPU, so nothing is waited for.
    bounds = torch.searchsorted(pairs, torch.arange(num_blocks + 1, dtype=pairs.dtype)).tolist()

    starts = torch.arange(0, num_queries * per_query + 1, per_query)
    # At least as many rows as draws: a CSR product takes no more entries than the matrix has.
    buffer = queries.new_empty(max(images * part, per_query), channels)
    highest = queries.new_full((num_queries, ), -torch.inf)
    total = torch.zeros_like(highest)
    sums = torch.zeros_like(queries)
    for i in range(num_blocks):
        pair = slice(bounds[i], bounds[i + 1])
        if pair.start == pair.stop:
            continue
        first, left = i // parts * images, i % parts * part
        source = keys[first:first + images, left:left + part]
        block = buffer[:source.size(0) * source.size(1)]
        block.view_as(source).copy_(source)
        norm = torch.linalg.vector_norm(block, dim=1, keepdim=True)
        block.mul_(torch.where(norm > EPS, norm.reciprocal(), 0))

        columns = rows[pair]
        crow = torch.searchsorted(order[pair], starts, out_int32=True)
        pattern = torch.sparse_csr_tensor(
            crow, columns, queries.new_zeros(columns.numel()), (num_queries, len(buffer)),
            check_invariants=False)
        logits = torch.sparse.sampled_addmm(
            pattern, queries, buffer.t(), beta=0., alpha=1 / temperature).values()

        # The softmax so far, moved to the new maximum. A query without any pair yet has -inf.
        offsets = crow.long()
        before = highest
        highest = torch.segment_reduce(logits, 'max', offsets=offsets, initial=-torch.inf,
                                       unsafe=True).maximum(before)
        fade = torch.where(before > -torch.inf, (before - highest).exp(), 0)
        logits -= highest.repeat_interleave(offsets.diff(), output_size=columns.numel())
        weights = logits.exp_()
        total.mul_(fade).add_(
            torch.segment_reduce(weights, 'sum', offsets=offsets, initial=0, unsafe=True))
        sums.mul_(fade[:, None]).add_(
            F.embedding_bag(columns, buffer, crow, mode='sum', per_sample_weights=weights,
                            include_last_offset=True))
    # The largest weight of an active query is 1 or faded from it, so its total is at least that.
    return total.log() + highest, sums.div_(total.masked_fill(~active, 1)[:, None])


@cache
def fused_kernel(device: torch.device) -> Callable | None:
    """The kernel that computes :func:`sampled_attention` on a GPU, if it can be had there.

    Triton comes with torch, but compiles only where it finds a C compiler, Python's headers and a
    GPU that it knows. That is tried once.
    """
    if importlib.util.find_spec('triton') is None:
        return None
    try:
        from .sampled_attention_kernel import fused_attention
        row = torch.ones(1, 16, device=device)
        first = torch.zeros(1, 1, dtype=int, device=device)
        fused_attention(row, row[None], first, first[0] == 0, 1.)
    except Exception as error:  # whatever stands in the way, there is another way
        if isinstance(error, torch.cuda.OutOfMemoryError) or 'CUDA error' in str(error):
            raise  # of what ran before
        warnings.warn(
            f'Keys are gathered, which is slower, since Triton compiles no kernel here ({error}). '
            'It needs a C compiler and the headers of Python: apt install gcc python3-dev.',
            stacklevel=2)
        return None
    return fused_attention


def sampled_attention(queries: Tensor, keys: Tensor, pixels: Tensor, active: Tensor,
                      temperature: float) -> tuple[Tensor, Tensor]:
    r"""Attention of every query to keys of its own, by cosine similarity.

    Args:
        queries (Tensor): Unit vectors. Shape (R, D), float32 or float64.
        keys (Tensor): Representations of any length; those shorter than ``EPS`` count as zero.
            Shape (B, n, D), any strides, any float dtype.
        pixels (Tensor): Keys of each query, as rows of the flattened ``keys``. Shape (R, M), int64.
        active (Tensor): Queries to compute. Shape (R,), bool.
        temperature (float): :math:`\tau` > 0.

    Returns:
        tuple[Tensor, Tensor]: With unit keys :math:`k_m`, the logsumexp of
        :math:`q \cdot k_m / \tau`, shape (R,), and the mean of :math:`k_m` under the softmax,
        shape (R, D), both of the dtype of the queries; :math:`-\infty` and 0 where not active.
    """
    attention = None
    if queries.device.type == 'cpu':
        attention = blocked_attention
    elif queries.device.type == 'cuda' and queries.dtype == torch.float32:
        attention = fused_kernel(queries.device)
    return (attention or gathered_attention)(queries, keys, pixels, active, temperature)


def contrast(rows: Tensor, queries: Tensor, prototypes: Tensor, pixels: Tensor, active: Tensor,
             temperature: float) -> tuple[Tensor, Tensor]:
    """Losses as of :func:`sampled_contrast`, and their gradients in the embeddings of the queries.

    Args:
        rows (Tensor): Representations, any strides. Shape (B, h * w, D).
        queries, prototypes, pixels, active, temperature: See :func:`sampled_contrast`.

    Returns:
        tuple[Tensor, Tensor]: Shapes (C, Q) and (C, Q, D).
    """
    vectors = rows[divmod_pixels(queries, rows.size(1))].to(prototypes.dtype)
    norm = torch.linalg.vector_norm(vectors, dim=2, keepdim=True)
    inverse = torch.where(norm > EPS, norm.reciprocal(), 0)
    unit = vectors.mul_(inverse)

    lse, means = sampled_attention(
        unit.flatten(0, 1), rows, pixels.flatten(0, 1),
        active[:, None].expand_as(queries).flatten(), temperature)
    # loss = log(1 + exp(excess)), and d loss / d excess = sigmoid(excess).
    excess = lse.view_as(queries) - (unit @ prototypes[:, :, None])[:, :, 0] / temperature
    slope = means.view_as(unit).sub_(prototypes[:, None])
    slope *= excess.sigmoid()[:, :, None] / temperature
    # Only what is at right angles to a vector changes its direction.
    slope -= (slope * unit).sum(2, keepdim=True) * unit
    return torch.logaddexp(excess, excess.new_zeros(())), slope.mul_(inverse)


def divmod_pixels(pixels: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Image, and place in it, of pixels that are counted over images of ``length`` pixels."""
    return pixels // length, pixels % length


class _SampledContrast(torch.autograd.Function):
    """The keys carry no gradient, so the queries' gradient is known with the loss."""

    @staticmethod
    def forward(ctx, embeddings: Tensor, queries: Tensor, prototypes: Tensor,
                negatives: Iterable[Tensor], active: Tensor, temperature: float) -> Tensor:
        rows = embeddings.flatten(2).transpose(1, 2)
        if rows.is_cuda:
            rows = rows.contiguous()  # once, for all parts; no copy if channels-last
        parts, done = [], 0
        for pixels in negatives:
            classes = slice(done, done + len(pixels))
            parts.append(contrast(rows, queries[classes], prototypes[classes], pixels,
                                  active[classes], temperature))
            done += len(pixels)
        losses, slopes = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(queries, slopes)
        ctx.like = torch.empty_like(embeddings, device='meta')  # layout and dtype, without memory
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        queries, slopes = ctx.saved_tensors
        # In the precision of the loss, since a pixel may be drawn often. In rows that lie side by
        # side on a GPU, which would copy the map to and fro otherwise.
        by_rows = slopes.is_cuda or ctx.like.is_contiguous(memory_format=torch.channels_last)
        total = torch.zeros_like(
            ctx.like, dtype=slopes.dtype, device=slopes.device,
            memory_format=torch.channels_last if by_rows else torch.contiguous_format)
        rows = total.flatten(2).transpose(1, 2)
        # As autograd itself scatters: index_put_ would check the range of pixels, and older torch
        # waits for that.
        torch.ops.aten._index_put_impl_(
            rows, divmod_pixels(queries, rows.size(1)), grad[:, :, None] * slopes, True, True)
        if total.dtype != ctx.like.dtype or total.stride() != ctx.like.stride():
            total = torch.empty_like(ctx.like, device=total.device).copy_(total)
        return total, None, None, None, None, None


def sampled_contrast(embeddings: Tensor, queries: Tensor, prototypes: Tensor,
                     negatives: Iterable[Tensor], active: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE of each query against the prototype of its class and its own sampled negatives.

    .. math:: -\log \frac{\exp(q \cdot p / \tau)}
        {\exp(q \cdot p / \tau) + \sum_m \exp(q \cdot k_m / \tau)}

    with q and k of length one. Memory grows with C Q D and with the size of the largest part of
    the negatives; the gradient reaches the queries alone.

    Args:
        embeddings (Tensor): Representations. Shape (B, D, h, w), any float dtype.
        queries (Tensor): Pixels, counted over images, then rows, then columns. Shape (C, Q), int64.
        prototypes (Tensor): Unit vector of the positive key of each class. Shape (C, D), float32,
            or float64 for float64 embeddings.
        negatives (Iterable[Tensor]): Negative keys of each query, counted likewise, in parts of
            some consecutive classes. Together of shape (C, Q, M), int64.
        active (Tensor): Classes to compute. Shape (C,), bool.
        temperature (float): :math:`\tau` > 0.

    Returns:
        Tensor: Loss of each query, 0 where the class is not active. Shape (C, Q), of the dtype of
        the prototypes.
    """
    return _SampledContrast.apply(embeddings, queries, prototypes, negatives, active, temperature)
