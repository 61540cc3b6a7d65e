# Licensed under the Apache License, Version 2.0.
"""Panels of images and label maps side by side, with a legend of the classes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# A label map with fewer labelled pixels than this share has them drawn as dots, to be seen at all.
_SPARSE = 0.02


def colour_labels(
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


def draw_panel(
    columns: dict[str, Sequence[np.ndarray]],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    ignore_index: int = 255,
    column_width: float = 2.4,
) -> np.ndarray:
    """Draw titled columns of pictures, one row a sample, over a legend of the classes.

    Args:
        columns (dict): Title to pictures, top to bottom; each an RGB image (H, W, 3) uint8 or a
            label map (H, W). All columns hold equally many.
        class_names (Sequence[str]): Names for the legend.
        palette (Sequence[Sequence[int]]): RGB of each class, 0-255.
        ignore_index (int): Value of pixels without a label in label maps.
        column_width (float): Width of a column in inches, at 100 dots an inch.

    Returns:
        np.ndarray: RGB picture (height, width, 3), uint8.

    Raises:
        ValueError: If columns differ in length or are empty, or a label has no colour.
    """
    heights = {len(pictures) for pictures in columns.values()}
    if len(heights) != 1 or heights == {0}:
        raise ValueError(
            'Every column of a panel needs the same number of pictures, at least one; '
            f'got { {title: len(p) for title, p in columns.items()} }.'
        )
    num_rows, num_columns = heights.pop(), len(columns)
    colours = np.asarray(palette, float) / 255
    first = next(iter(columns.values()))
    row_heights = [column_width * picture.shape[0] / picture.shape[1] for picture in first]
    legend_columns = max(1, min(len(class_names), int(column_width * num_columns / 1.05)))
    legend_height = 0.26 * -(-len(class_names) // legend_columns) + 0.12
    title_height = 0.34
    width = column_width * num_columns
    height = sum(row_heights) + title_height + legend_height

    figure = Figure(figsize=(width, height), dpi=100, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        num_rows,
        num_columns,
        height_ratios=row_heights,
        left=0.004,
        right=0.996,
        wspace=0.02,
        hspace=0.03,
        top=1 - title_height / height,
        bottom=legend_height / height,
    )
    for column, (title, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            axes = figure.add_subplot(grid[row, column])
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=10, pad=5)
            if picture.ndim == 3:
                axes.imshow(picture, aspect='auto', interpolation='lanczos')
                continue
            axes.imshow(
                colour_labels(picture, palette, ignore_index),
                aspect='auto',
                interpolation='nearest',
            )
            y, x = np.nonzero(picture != ignore_index)
            if len(y) < _SPARSE * picture.size:
                axes.scatter(
                    x, y, s=34, c=colours[picture[y, x]], edgecolors='black', linewidths=0.9
                )
                axes.set_xlim(-0.5, picture.shape[1] - 0.5)
                axes.set_ylim(picture.shape[0] - 0.5, -0.5)
    handles = [
        Patch(facecolor=colour, edgecolor='black', linewidth=0.6, label=name)
        for name, colour in zip(class_names, colours, strict=True)
    ]
    figure.legend(
        handles=handles,
        loc='lower center',
        ncols=legend_columns,
        frameon=False,
        fontsize=9,
        handlelength=1.2,
        handleheight=1.0,
        columnspacing=1.2,
        borderaxespad=0.1,
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
