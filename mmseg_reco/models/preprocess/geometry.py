# Licensed under the Apache License, Version 2.0.
"""Geometry of a batch: every image has its own parameters; all that is said of it goes with it."""

import torch
from mmseg.registry import TASK_UTILS
from torch import Generator, Tensor

from mmseg_reco.utils import check_probability, check_range

from .draws import between, uniforms
from .pseudo_batch import PseudoBatch, pairs


def _source_pixels(
    size: int, new_size: Tensor, offset: Tensor, length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the pixels of each crop come from, along one axis.

    The position of a pixel in the source, (pixel + ½)·size/new_size − ½, is kept as an exact
    fraction, so that an unscaled axis is copied bit by bit.

    Args:
        size: Length of the source axis.
        new_size: (B,) int64, its length after rescaling.
        offset: (B,) int64, where the crop begins on the rescaled axis.
        length: Length of the crop.

    Returns:
        Four (B, length): for bilinear interpolation the two neighbours and the float weight of
        the second; and the nearest pixel.
    """
    new_size = new_size[:, None]
    pixel = offset[:, None] + torch.arange(length)
    # Beyond the end the rescaled axis is reflected about its last pixel, again and again if needed.
    period = (2 * new_size - 2).clamp(min=1)
    pixel = pixel % period
    pixel = torch.minimum(pixel, period - pixel)

    nearest = (2 * pixel + 1) * size // (2 * new_size)
    position = ((2 * pixel + 1) * size - new_size).clamp(min=0)
    low = position // (2 * new_size)
    weight = position % (2 * new_size) / (2 * new_size)
    return low, (low + 1).clamp(max=size - 1), weight, nearest


def _take_columns(maps: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    # On CPU a gather is more than twice as quick here as index_select.
    return torch.gather(maps, -1, columns.expand(*maps.shape[:-1], -1), out=out)


def rescale_crop(
    batch: PseudoBatch, new_sizes: Tensor, offsets: Tensor, crop_size: tuple[int, int]
) -> PseudoBatch:
    """Rescale every image to its own size, then cut one crop out of each.

    Images are interpolated bilinearly without antialiasing, all else takes the nearest pixel;
    pixel centres are at half-integers (``align_corners=False``). What a crop wants beyond the right
    or bottom border is padding: image reflected, label ignored, confidence 0, origin -1.

    Args:
        batch: B images of size (H, W).
        new_sizes: (B, 2) int64 on the host, height and width ≥ 1 after rescaling.
        offsets: (B, 2) int64 ≥ 0 on the host, top and left of the crop in the rescaled image.
        crop_size: (h, w).

    Returns:
        Batch of size (h, w).
    """
    size, device = batch.images.shape[-2:], batch.images.device
    axes = (
        _source_pixels(size[axis], new_sizes[:, axis], offsets[:, axis], crop_size[axis])
        for axis in range(2)
    )
    rows, columns = (
        zip(*(x.to(device, non_blocking=True) for x in axis), strict=True) for axis in axes
    )
    # Rows and columns of each crop that are not padding.
    filled = (new_sizes - offsets).clamp(max=torch.tensor(crop_size)).tolist()
    out = batch.map(lambda x: x.new_empty(*x.shape[:-2], *crop_size))
    # Image by image: what is at work stays in the processor's cache.
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        top, bottom, down, nearest_row = row
        left, right, across, nearest_column = column
        image = batch.images[i]
        image = image.index_select(1, top).lerp_(
            image.index_select(1, bottom), down[:, None].to(image.dtype)
        )
        torch.lerp(
            _take_columns(image, left),
            _take_columns(image, right),
            across.to(image.dtype),
            out=out.images[i],
        )
        _, *maps = pairs(batch, out)
        height, width = filled[i]
        nearest_row, nearest_column = nearest_row[:height], nearest_column[:width]
        for source, target, fill in maps:
            _take_columns(source[i].index_select(0, nearest_row), nearest_column,
                          out=target[i, :height, :width])
            target[i, height:] = fill
            target[i, :, width:] = fill
    return out


@TASK_UTILS.register_module()
class BatchRescaleCrop:
    """Random rescale and random crop, drawn for each image (step 2 of docs/methods/reco.md).

    Returns a batch of its own, also where nothing is to be done.

    Args:
        crop_size: (h, w) of the result; None keeps the size of the incoming batch.
        ratio_range: Interval of the uniform scale ratio; both sides are rounded down.

    Raises:
        ValueError: A ratio is not positive, or the interval is not ordered.
    """

    def __init__(
        self,
        crop_size: tuple[int, int] | None = None,
        ratio_range: tuple[float, float] = (0.5, 1.5),
    ) -> None:
        check_range('ratio_range', ratio_range, positive=True)
        self.crop_size = crop_size
        self.ratio_range = tuple(ratio_range)

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        size = tuple(batch.images.shape[-2:])
        crop_size = tuple(self.crop_size or size)
        if self.ratio_range == (1, 1) and crop_size == size:
            return batch.map(torch.clone)
        new_sizes, offsets = [], []
        for draw, *place in uniforms(len(batch.images), 3, generator):
            ratio = between(draw, self.ratio_range)
            new_size = [max(int(ratio * side), 1) for side in size]
            room = [max(new - crop, 0) for new, crop in zip(new_size, crop_size, strict=True)]
            new_sizes.append(new_size)
            offsets.append([int(u * (n + 1)) for u, n in zip(place, room, strict=True)])
        return rescale_crop(batch, torch.tensor(new_sizes), torch.tensor(offsets), crop_size)


@TASK_UTILS.register_module()
class BatchFlip:
    """Mirror each image left to right with probability ``prob`` (step 4 of docs/methods/reco.md).

    Changes the batch that it is given.

    Raises:
        ValueError: ``prob`` is not in [0, 1].
    """

    def __init__(self, prob: float = 0.5) -> None:
        check_probability('prob', prob)
        self.prob = prob

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        for i, (draw,) in enumerate(uniforms(len(batch.images), 1, generator)):
            if draw < self.prob:
                for _, maps, _ in pairs(batch, batch):
                    maps[i] = maps[i].flip(-1)
        return batch
