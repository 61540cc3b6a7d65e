# Licensed under the Apache License, Version 2.0.
"""What one forward pass of a network gives, maps beside it, and losses on its representations."""
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmseg.utils import SampleList
from torch import Tensor

from ..utils import resize_maps, take_nearest


class DenseOutput(NamedTuple):
    """What one forward pass of a network gives.

    Attributes:
        features: Backbone (and neck) features, as the heads take them.
        outputs: What the decode heads returned: logits (B, C, h, w), a list of them in a cascade,
            or a :class:`QueryOutput`.
        embeddings (Tensor, optional): Representations (B, D, h, w).
    """

    features: Any
    outputs: Any
    embeddings: Tensor | None

    def split(self, size: int) -> tuple['DenseOutput', 'DenseOutput']:
        """Cut a batch in two, after ``size`` images."""
        return (DenseOutput(*(_map(lambda x: x[:size], part) for part in self)),
                DenseOutput(*(_map(lambda x: x[size:], part) for part in self)))

    @staticmethod
    def cat(first: 'DenseOutput', second: 'DenseOutput') -> 'DenseOutput':
        """Put two batches together; the inverse of :meth:`split`."""
        return DenseOutput(*(_map(lambda *x: torch.cat(x), *parts)
                             for parts in zip(first, second, strict=True)))


def _map(function: Callable, *trees: Any) -> Any:
    """Apply a function to the tensors of nested lists and tuples."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, (list, tuple)):
        parts = [_map(function, *parts) for parts in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, '_fields') else type(first)(parts)
    return first


def drop_channels(features: Any, whole: int, prob: float) -> Any:
    """Zero whole channels of an encoder's features, those of some images at random (UniMatch).

    Args:
        features: Tensors (B, C, ...) in nested lists and tuples.
        whole (int): The first that many images keep all.
        prob (float): Of each channel to be dropped, in [0, 1]; what stays is scaled by
            1 / (1 - prob).

    Returns:
        The same structure.
    """

    def drop(maps: Tensor) -> Tensor:
        dropped = F.dropout1d(maps[whole:].reshape(len(maps) - whole, maps.size(1), -1), prob)
        return torch.cat([maps[:whole], dropped.view_as(maps[whole:])])

    return _map(drop, features)


def stack_labels(data_samples: SampleList, name: str = 'gt_sem_seg') -> Tensor:
    """Stack the label maps of a batch to (B, H, W), int64."""
    return torch.cat([getattr(sample, name).data for sample in data_samples])


def fill_padding(maps: Tensor, value: float, size: tuple[int, int],
                 data_samples: SampleList) -> Tensor:
    """Maps with a value of their own where the images are padding.

    Args:
        maps (Tensor): Shape (B, ..., h, w).
        value (float): What padding gets.
        size (tuple[int, int]): Height and width of the batch of images, padding included.
        data_samples (list[SegDataSample]): With the images' own sizes, ``img_shape``.

    Returns:
        Tensor: The same shape; the same tensor where nothing is padded.
    """
    sizes = [tuple(sample.img_shape[:2]) for sample in data_samples]
    if all(own == tuple(size) for own in sizes):
        return maps
    maps = maps.clone()
    rows, columns = (part / whole for part, whole in zip(maps.shape[-2:], size, strict=True))
    for image, (height, width) in zip(maps, sizes, strict=True):
        image[..., round(height * rows):, :] = value
        image[..., round(width * columns):] = value
    return maps


def check_names(losses: Iterable[nn.Module]) -> None:
    """Refuse two losses of one name, of which only the last would count."""
    names = [loss.loss_name for loss in losses]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'two losses have the name {", ".join(twice)}: give each a loss_name of '
                         'its own, which must contain "loss"')


def no_loss(embeddings: Tensor) -> Tensor:
    """A 0 that gives the projector a gradient, for which DDP waits."""
    return 0 * embeddings.sum()


def dense_losses(modules: Iterable[nn.Module], embeddings: Tensor, labels: Tensor,
                 probs: Tensor) -> dict[str, Tensor]:
    """Call losses on representations, at the representations' resolution.

    Args:
        modules (Iterable[nn.Module]): Losses called with (embeddings, labels, probs).
        embeddings (Tensor): Shape (B, D, h, w).
        labels (Tensor): Labels at any resolution, ignored where not valid. Shape (B, H, W), int64.
        probs (Tensor): Probability of every class, at any resolution; used without gradient. Shape
            (B, K, h', w').

    Returns:
        dict[str, Tensor]: Each loss under its ``loss_name``.
    """
    size = embeddings.shape[-2:]
    labels = take_nearest(labels, size)
    probs = resize_maps(probs.detach(), size)
    return {module.loss_name: module(embeddings, labels, probs) for module in modules}
