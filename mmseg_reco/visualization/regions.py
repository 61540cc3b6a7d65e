# Licensed under the Apache License, Version 2.0.
"""Regions of RC²L (reconstruction): the teacher's beside those matched with them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import ndimage

from .images import figure_to_rgb


def _draw_masks(axes: Axes, image: np.ndarray, masks: np.ndarray, colours: np.ndarray,
                names: Sequence[str]) -> None:
    """One flat colour for each region over a faded image, its name at its innermost pixel."""
    axes.imshow(255 - (255 - image) // 3, extent=(0, 1, 1, 0), aspect='auto')
    height, width = masks.shape[1:]
    # Small regions last, so that none is hidden.
    order = np.argsort([-mask.sum() for mask in masks], kind='stable')
    for i in order:
        layer = np.zeros((height, width, 4))
        layer[masks[i] > 0.5] = (*colours[i], 0.75)
        axes.imshow(layer, extent=(0, 1, 1, 0), aspect='auto', interpolation='nearest')
    for i in order:
        inside = np.pad(masks[i] > 0.5, 1)
        if inside.any():
            depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            place = np.clip([(x + 0.5) / width, (y + 0.5) / height], (0.12, 0.03), (0.88, 0.97))
            axes.text(*place, names[i], fontsize=8, color='black', ha='center', va='center',
                      path_effects=[withStroke(linewidth=2, foreground='white')])


def draw_matched_regions(images: Sequence[np.ndarray], teacher_masks: Sequence[np.ndarray],
                         student_masks: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                         overlap: Sequence[np.ndarray], class_names: Sequence[str],
                         palette: Sequence[Sequence[int]], width: float = 3.2) -> np.ndarray:
    """Draw one row for each image: the student's view, the teacher's regions, the student's.

    Matched regions have the same number and colour, that of the teacher's class. The student's
    carry the Dice overlap of the pair.

    Args:
        images (Sequence[np.ndarray]): Student's views, RGB (H, W, 3), uint8.
        teacher_masks (Sequence[np.ndarray]): For each image (T, h, w); inside above 0.5.
        student_masks (Sequence[np.ndarray]): The matched ones, in the same order (T, h, w).
        labels (Sequence[np.ndarray]): Teacher's class of each region (T,).
        overlap (Sequence[np.ndarray]): Dice of each pair (T,), in [0, 1].
        class_names (Sequence[str]): Names of the classes.
        palette (Sequence[Sequence[int]]): RGB of each class, 0-255.
        width (float): Of a picture in inches, at 100 dots an inch.

    Returns:
        np.ndarray: RGB picture, uint8.
    """
    palette = np.asarray(palette, float) / 255
    row = width * images[0].shape[0] / images[0].shape[1]
    height = row * len(images) + 0.34
    figure = Figure(figsize=(3 * width, height), dpi=100, facecolor='white')
    grid = figure.subplots(
        len(images), 3, squeeze=False,
        gridspec_kw=dict(left=0.004, right=0.996, wspace=0.02, hspace=0.03, bottom=0.004,
                         top=1 - 0.34 / height))
    titles = ("student's view", "teacher's regions", "student's regions matched with them (Dice)")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10, pad=5)
    for axes, image, theirs, ours, classes, dice in zip(
            grid, images, teacher_masks, student_masks, labels, overlap, strict=True):
        colours = palette[classes]
        axes[0].imshow(image, extent=(0, 1, 1, 0), aspect='auto')
        _draw_masks(axes[1], image, theirs, colours,
                    [f'{i + 1} {class_names[k]}' for i, k in enumerate(classes)])
        _draw_masks(axes[2], image, ours, colours,
                    [f'{i + 1} ({d:.2f})' for i, d in enumerate(dice)])
        for one in axes:
            one.set_axis_off()
    return figure_to_rgb(figure)
