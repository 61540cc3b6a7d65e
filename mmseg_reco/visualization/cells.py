# Licensed under the Apache License, Version 2.0.
"""What a cell of a panel shows: label maps, pseudo-labels with confidence, points on an image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy import ndimage

# Given regions that would be smaller than this in the picture are drawn as dots, in its pixels.
_SMALLEST_REGION = 7


class PseudoLabels(NamedTuple):
    """Pseudo-labels; hatched black and white where they are less sure than the threshold.

    Attributes:
        labels (np.ndarray): Class indices (H, W).
        confidence (np.ndarray): In [0, 1], (H, W).
        threshold (float): In [0, 1].
    """

    labels: np.ndarray
    confidence: np.ndarray
    threshold: float


class Dots(NamedTuple):
    """Classes of single points over a faded image.

    Attributes:
        picture (np.ndarray): RGB (H, W, 3), uint8.
        places (np.ndarray): Row and column of each point, in pixels of the picture (n, 2), float.
        labels (np.ndarray): Class of each point (n,).
        star (int, optional): Number of the point to draw as a star.
    """

    picture: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    star: int | None = None


Cell = np.ndarray | PseudoLabels | Dots


def color_labels(
    labels: np.ndarray, palette: Sequence[Sequence[int]], ignore_index: int = 255
) -> np.ndarray:
    """Colour a label map; ignored pixels become hatched grey, unlike any flat class colour.

    Args:
        labels (np.ndarray): Class indices (H, W), ``ignore_index`` where there is no label.
        palette (Sequence[Sequence[int]]): RGB of each class, 0-255.
        ignore_index (int): Value of pixels without a label.

    Returns:
        np.ndarray: RGB image (H, W, 3), uint8.

    Raises:
        ValueError: If a label is neither a class of the palette nor ``ignore_index``.
    """
    palette = np.asarray(palette, np.uint8)
    ignored = labels == ignore_index
    wrong = ~ignored & ((labels < 0) | (labels >= len(palette)))
    if wrong.any():
        raise ValueError(
            f'Label {labels[wrong][0]} has no colour: the palette has {len(palette)} '
            f'classes and ignore_index is {ignore_index}.'
        )
    picture = palette[np.where(ignored, 0, labels)]
    rows, columns = np.indices(labels.shape)
    hatch = np.where((rows + columns) % 8 < 2, 176, 208).astype(np.uint8)
    return np.where(ignored[..., None], hatch[..., None], picture)


def hatch(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Draw a black and a white line across, side by side: one of them shows on any colour.

    Args:
        picture (np.ndarray): RGB (H, W, 3), uint8.
        where (np.ndarray): Pixels to hatch (H, W), bool.

    Returns:
        np.ndarray: RGB (H, W, 3), uint8.
    """
    rows, columns = np.indices(where.shape)
    phase = (rows - columns) % 8
    picture = np.where((where & (phase == 0))[..., None], np.uint8(0), picture)
    return np.where((where & ((phase == 1) | (phase == 2)))[..., None], np.uint8(255), picture)


def draw_cell(
    axes: Axes,
    cell: Cell,
    size: tuple[int, int],
    palette: Sequence[Sequence[int]],
    ignore_index: int,
) -> None:
    """Draw one cell.

    Args:
        axes (Axes): Of the size that is named.
        cell: RGB image (H, W, 3), uint8; label map (H, W), integers; map of numbers in [0, 1]
            (H, W), floating point, from black to white, NaN for none; or one of the classes above.
        size (tuple[int, int]): Height and width in pixels of the picture. Maps are brought to it
            before they are hatched, so that the lines are the same everywhere.
        palette (Sequence[Sequence[int]]): RGB of each class, 0-255.
        ignore_index (int): Value of pixels without a label.
    """
    axes.set_axis_off()
    frame = dict(extent=(0, size[1], size[0], 0), aspect='auto')
    if isinstance(cell, Dots):
        grey = cell.picture.mean(2, keepdims=True).repeat(3, 2)
        axes.imshow((0.5 * grey + 127).astype(np.uint8), interpolation='lanczos', **frame)
        shape = cell.picture.shape
        _scatter(axes, cell.places, cell.labels, shape, size, palette, 18)
        if cell.star is not None:
            one = slice(cell.star, cell.star + 1)
            _scatter(axes, cell.places[one], cell.labels[one], shape, size, palette, 260, '*')
    elif isinstance(cell, PseudoLabels):
        labels = _to_size(cell.labels, size)
        unsure = (_to_size(cell.confidence, size) < cell.threshold) & (labels != ignore_index)
        picture = hatch(color_labels(labels, palette, ignore_index), unsure)
        axes.imshow(picture, interpolation='nearest', **frame)
    elif cell.ndim == 3:
        axes.imshow(cell, interpolation='lanczos', **frame)
    elif np.issubdtype(cell.dtype, np.floating):
        values = _to_size(cell, size)
        nothing = np.isnan(values)
        grey = np.where(nothing, 0, 255 * values).round().astype(np.uint8)[..., None]
        empty = color_labels(np.full(size, ignore_index), palette, ignore_index)
        picture = np.where(nothing[..., None], empty, grey)
        axes.imshow(picture, interpolation='nearest', **frame)
    else:
        picture = color_labels(_to_size(cell, size), palette, ignore_index)
        axes.imshow(picture, interpolation='nearest', **frame)
        places = _small_regions(cell, ignore_index, size)
        labels = cell[tuple(places.astype(int).T)]
        _scatter(axes, places, labels, cell.shape, size, palette, 34)


def classes_in(cell: Cell) -> np.ndarray:
    """The labels that a cell shows, each once; among them, perhaps, the ignored one."""
    if isinstance(cell, (Dots, PseudoLabels)):
        return np.unique(cell.labels)
    drawn = cell.ndim == 2 and not np.issubdtype(cell.dtype, np.floating)
    return np.unique(cell) if drawn else np.zeros(0, int)


def _to_size(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest pixels of a map at another size."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(values.shape, size, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _small_regions(labels: np.ndarray, ignore_index: int, size: tuple[int, int]) -> np.ndarray:
    """A pixel (n, 2) of each region too small to be seen, unless the map is dense."""
    given = labels != ignore_index
    box = ndimage.find_objects(given.astype(int))  # a dense map may have a wide border
    if not box or (given.mean() > 0.02 and given[box[0]].mean() > 0.5):
        return np.zeros((0, 2))
    scale = np.divide(size, labels.shape)
    places = []
    for label in np.unique(labels[given]):
        regions, _ = ndimage.label(labels == label, np.ones((3, 3)))
        for number, window in enumerate(ndimage.find_objects(regions), 1):
            extent = [part.stop - part.start for part in window]
            if (extent * scale < _SMALLEST_REGION).all():
                pixels = np.argwhere(regions[window] == number)
                middle = pixels[len(pixels) // 2]
                places.append([part.start + at for part, at in zip(window, middle, strict=True)])
    return np.array(places, float).reshape(-1, 2)


def _scatter(
    axes: Axes,
    places: np.ndarray,
    labels: np.ndarray,
    shape: Sequence[int],
    size: tuple[int, int],
    palette: Sequence[Sequence[int]],
    area: float,
    marker: str = 'o',
) -> None:
    """Dots in the colour of their class, at pixels of a map of another size."""
    if len(places):
        y, x = ((places + 0.5) * np.divide(size, shape[:2])).T
        colours = np.asarray(palette, float)[labels] / 255
        axes.scatter(x, y, s=area, c=colours, edgecolors='black', linewidths=0.9, marker=marker)
    axes.set_xlim(0, size[1])
    axes.set_ylim(size[0], 0)
