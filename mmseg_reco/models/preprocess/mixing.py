# Licensed under the Apache License, Version 2.0.
"""Mixing inside the unlabelled batch: image i with image i + 1, the last with the first."""

import math

import torch
from mmseg.registry import TASK_UTILS
from torch import Generator, Tensor

from mmseg_reco.utils import check_probability, check_range

from .draws import between, uniforms
from .pseudo_batch import IGNORE_INDEX, PseudoBatch, pairs

Box = tuple[slice, slice]


def random_boxes(num: int, size: tuple[int, int], generator: Generator | None = None) -> list[Box]:
    """Boxes of half the area of an image, anywhere inside it.

    The width is uniform between half and all of the image's; the height follows from the area
    (which is met up to the rounding of the height to whole pixels).

    Args:
        num: How many.
        size: (H, W) of the image.

    Returns:
        Rows and columns of each box.
    """
    boxes = []
    for draws in uniforms(num, 3, generator):
        width = max(round(between(draws[0], (size[1] / 2, size[1]))), 1)
        height = min(max(round(size[0] * size[1] / 2 / width), 1), size[0])
        top = int(draws[1] * (size[0] - height + 1))
        left = int(draws[2] * (size[1] - width + 1))
        boxes.append((slice(top, top + height), slice(left, left + width)))
    return boxes


def boxes_of_area(
    num: int, size: tuple[int, int], area: tuple[float, float], generator: Generator | None = None
) -> list[Box]:
    """Boxes whose share of the image is uniform in ``area``, anywhere inside it.

    The ratio of height to width, each as a share of the image's, is uniform in [0.3, 1 / 0.3], as
    far as the box then fits.

    Args:
        num: How many.
        size: (H, W) of the image.
        area: Interval in (0, 1].

    Returns:
        Rows and columns of each box.
    """
    boxes = []
    for draws in uniforms(num, 4, generator):
        share = between(draws[0], area)
        ratio = between(draws[1], (max(0.3, share), min(1 / 0.3, 1 / share)))
        height = max(round(size[0] * math.sqrt(share * ratio)), 1)
        width = max(round(size[1] * math.sqrt(share / ratio)), 1)
        top = int(draws[2] * (size[0] - height + 1))
        left = int(draws[3] * (size[1] - width + 1))
        boxes.append((slice(top, top + height), slice(left, left + width)))
    return boxes


def cut_out(batch: PseudoBatch, boxes: list[Box]) -> PseudoBatch:
    """Remove each image's box: image 0, label ignored, confidence 0."""
    out = batch.map(torch.clone)
    for i, box in enumerate(boxes):
        for _, target, fill in pairs(batch, out):
            target[i][..., box[0], box[1]] = fill
    return out


def cut_mix(batch: PseudoBatch, boxes: list[Box]) -> PseudoBatch:
    """Fill each image's box with what image i + 1 has in the same place."""
    out = batch.map(torch.clone)
    for i, box in enumerate(boxes):
        for source, target, _ in pairs(batch, out):
            following = source[(i + 1) % len(boxes)]
            target[i][..., box[0], box[1]] = following[..., box[0], box[1]]
    return out


def random_half_of_classes(labels: Tensor, generator: Generator | None = None) -> Tensor:
    """⌊n/2⌋ of the n classes present in each label map, uniformly without replacement.

    Ignored pixels are no class: they are neither counted nor chosen.

    Args:
        labels: (B, H, W) integers in [0, 255], 255 = ignored.

    Returns:
        (B, 256) bool.
    """
    keys = torch.rand(len(labels), 256, generator=generator)
    keys = keys.to(labels.device, non_blocking=True)
    present = torch.zeros_like(keys, dtype=torch.bool)
    for table, label in zip(present, labels, strict=True):
        table.index_fill_(0, label.flatten().long(), True)
    present[:, IGNORE_INDEX] = False
    # Absent classes rank behind all present ones.
    rank = (keys + ~present).argsort(dim=1).argsort(dim=1)
    return rank < present.sum(dim=1, keepdim=True) // 2


def class_mix(batch: PseudoBatch, kept: Tensor) -> PseudoBatch:
    """Pixels of the classes in ``kept`` ((B, 256) bool) from image i, the others from i + 1."""
    out = batch.map(torch.empty_like)
    # On CPU both ways to choose are quicker than where, for bytes several times: weights of 1 and
    # 0, with which lerp is exact, for floats, and for integers bits that are all set or clear.
    for i, (table, labels) in enumerate(zip(kept.float(), batch.labels, strict=True)):
        weight = table.index_select(0, labels.flatten().int()).view_as(labels)
        for source, target, _ in pairs(batch, out):
            own, following = source[i], source[(i + 1) % len(kept)]
            if own.is_floating_point():
                torch.lerp(following, own, weight.to(own.dtype), out=target[i])
            else:
                torch.bitwise_xor(own, following, out=target[i])
                target[i].bitwise_and_(weight.to(own.dtype).neg_()).bitwise_xor_(following)
    return out


@TASK_UTILS.register_module()
class CutOut:
    """Remove a box of half the area from each image (step 3 of docs/methods/reco.md).

    Expects normalised images: the removed part becomes 0, the mean colour.
    """

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        boxes = random_boxes(len(batch.labels), tuple(batch.labels.shape[1:]), generator)
        return cut_out(batch, boxes)


@TASK_UTILS.register_module()
class CutMix:
    """Fill a box of half the area from the next image (step 3 of docs/methods/reco.md)."""

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        boxes = random_boxes(len(batch.labels), tuple(batch.labels.shape[1:]), generator)
        return cut_mix(batch, boxes)


@TASK_UTILS.register_module()
class RandomCutMix:
    """Fill a box of random size from the next image, in some images (docs/methods/unimatch.md).

    Args:
        prob: Probability that an image is mixed.
        area: Interval of the box's share of the image, in (0, 1].

    Raises:
        ValueError: ``prob`` is not in [0, 1], or the interval is not ordered or leaves (0, 1].
    """

    def __init__(self, prob: float = 0.5, area: tuple[float, float] = (0.02, 0.4)) -> None:
        check_probability('prob', prob)
        check_range('area', area, high=1, positive=True)
        self.prob = prob
        self.area = tuple(area)

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        num, size = len(batch.labels), tuple(batch.labels.shape[1:])
        boxes = boxes_of_area(num, size, self.area, generator)
        nothing = slice(0), slice(0)
        chosen = uniforms(num, 1, generator)
        return cut_mix(batch, [box if draw < self.prob else nothing
                               for box, (draw,) in zip(boxes, chosen, strict=True)])


@TASK_UTILS.register_module()
class ClassMix:
    """Paste half of an image's pseudo-classes onto the next one (step 3 of docs/methods/reco.md).

    ⌊n/2⌋ of the n classes present in pseudo-label i stay; all else, ignored pixels included, comes
    from image i + 1. Ignored pixels do not count as a class.
    """

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        return class_mix(batch, random_half_of_classes(batch.labels, generator))
