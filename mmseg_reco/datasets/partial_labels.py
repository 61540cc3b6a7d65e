# Licensed under the Apache License, Version 2.0.
"""Partial labels (Case II of ReCo, section 4.2): every image keeps a few labelled pixels."""

import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import cv2
import numpy as np


def parse_level(level: str) -> float:
    """Share of each class's pixels that a level keeps.

    Args:
        level (str): ``p<percent>`` with a whole percentage from 0 to 100. The paper uses ``p0``
            (one pixel per class), ``p1``, ``p5`` and ``p25``.

    Returns:
        float: The share, in [0, 1].

    Raises:
        ValueError: If ``level`` has another form.
    """
    match = re.fullmatch(r'p(\d{1,3})', level)
    if match is None or int(match[1]) > 100:
        raise ValueError(
            f"Unknown partial-label level '{level}': give 'p<percent>' with a whole percentage "
            'from 0 to 100, such as p0 (one pixel per class), p1, p5 or p25.'
        )
    return int(match[1]) / 100


def image_rng(seed: int, name: str) -> np.random.Generator:
    """Random generator of one image: the same for (seed, name) on every machine and in every run.

    Args:
        seed (int): Seed of the partial labels, >= 0.
        name (str): Name of the image: the stem of its mask file.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode('utf-8'))])


def sparsify(
    mask: np.ndarray, level: str, rng: np.random.Generator, ignore_index: int = 255
) -> np.ndarray:
    """Keep one small region of every class and ignore the rest: one level of ``sparsify_levels``.

    Returns:
        np.ndarray: Sparse mask, shape (H, W), dtype uint8.
    """
    return sparsify_levels(mask, [level], rng, ignore_index)[0]


def sparsify_levels(
    mask: np.ndarray, levels: Sequence[str], rng: np.random.Generator, ignore_index: int = 255
) -> list[np.ndarray]:
    """Keep one small region of every class and ignore the rest, at several levels.

    The region of a class grows from one random pixel of it, by dilations with a 5x5 square that
    run through other classes as well, until it covers at least ``int(share * class pixels)``
    pixels of the class. ``k`` such dilations fill exactly the square of pixels at Chebyshev
    distance <= 2k, so nothing is dilated: a bisection finds the smallest square with enough pixels.

    One number is drawn per class, in ascending class order, whatever the levels: the regions of a
    lower level lie inside those of a higher one, also between calls with equal generators.

    Args:
        mask (np.ndarray): Class indices, shape (H, W), dtype uint8.
        levels (Sequence[str]): See :func:`parse_level`.
        rng (np.random.Generator): Source of the seed pixels, see :func:`image_rng`.
        ignore_index (int): Label of pixels without a class, in the input and in the result.

    Returns:
        list[np.ndarray]: A sparse mask for each level, shape (H, W), dtype uint8.

    Raises:
        ValueError: If a level is unknown or the mask is not a uint8 image of shape (H, W).
    """
    shares = [parse_level(level) for level in levels]
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(
            'A mask of class indices must have shape (H, W) and dtype uint8, but this one has '
            f'shape {mask.shape} and dtype {mask.dtype}.'
        )
    sparse_masks = [np.full_like(mask, ignore_index) for _ in levels]
    for class_index in _labels(mask):
        if class_index == ignore_index:
            continue
        inside = mask == class_index
        # pixels of the class are numbered row by row; a number is found by counts of the rows
        per_row = cv2.reduce(inside.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
        up_to_row = per_row.ravel().cumsum()
        total = int(up_to_row[-1])
        number = rng.integers(total)
        row = int(np.searchsorted(up_to_row, number, side='right'))
        column = int(np.flatnonzero(inside[row])[number - up_to_row[row]])
        for share, sparse in zip(shares, sparse_masks, strict=True):
            region = _grow(inside, row, column, int(share * total))
            sparse[region][inside[region]] = class_index
    return sparse_masks


def _labels(mask: np.ndarray) -> Iterator[int]:
    """Labels of a uint8 mask, ascending."""
    label = -1
    while label < 255:
        # modulo 256, so that all labels up to this one become larger than those above it
        label += 1 + int((mask - np.uint8(label + 1)).min())
        if label <= 255:
            yield label


def _grow(inside: np.ndarray, row: int, column: int, target: int) -> tuple[slice, slice]:
    """Rows and columns that the fewest dilations of a pixel fill to cover ``target`` pixels."""

    def filled(dilations: int) -> tuple[slice, slice]:
        reach = 2 * dilations
        return (
            slice(max(row - reach, 0), row + reach + 1),
            slice(max(column - reach, 0), column + reach + 1),
        )

    if target <= 1:
        return filled(0)
    enough = max(inside.shape) // 2  # dilations that fill the image from any pixel
    dilations = bisect_left(
        range(enough), target, key=lambda count: np.count_nonzero(inside[filled(count)])
    )
    return filled(dilations)
