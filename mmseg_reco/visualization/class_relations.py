# Licensed under the Apache License, Version 2.0.
"""The class-relation graph of ReCo as a picture (paper section 3.3)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_MOST_ANNOTATED = 12  # beyond this many classes the numbers no longer fit their cells


def draw_class_relations(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw the relation matrix G, the cosine between the mean representations of two classes.

    The map runs from purple (opposite) over white (unrelated) to brown (alike), which
    readers with any colour vision tell apart. Values are written into the cells of up to 12
    classes. A class that was never seen is grey.

    Args:
        matrix (np.ndarray): Cosines (C, C) in [-1, 1]; NaN where a class was absent.
        class_names (Sequence[str]): The C names.

    Returns:
        matplotlib.figure.Figure: Figure with an Agg canvas; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: If the matrix is not square or does not match the names.
    """
    matrix = np.asarray(matrix, float)
    count = len(class_names)
    if matrix.shape != (count, count):
        raise ValueError(
            f'The relation matrix must have shape ({count}, {count}), one row for '
            f'each class name, but has {matrix.shape}.'
        )
    side = max(3.2, 0.46 * count + 1.4) if count <= _MOST_ANNOTATED else 0.26 * count + 2
    figure = Figure(figsize=(side + 0.7, side), dpi=120, facecolor='white', layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = colormaps['PuOr_r'].with_extremes(bad='0.75')
    picture = axes.imshow(np.ma.masked_invalid(matrix), cmap=colours, vmin=-1, vmax=1)
    axes.set_xticks(range(count), class_names, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(range(count), class_names)
    axes.tick_params(length=0, labelsize=8)
    axes.set_title('Class relations: cosine of mean representations', fontsize=9)
    figure.colorbar(picture, ax=axes, shrink=0.8).ax.tick_params(labelsize=8)
    if count <= _MOST_ANNOTATED:
        for row, column in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            value = matrix[row, column]
            axes.text(
                column,
                row,
                f'{value:.2f}'.replace('0.', '.'),
                ha='center',
                va='center',
                fontsize=7,
                color='white' if abs(value) > 0.6 else 'black',
            )
    return figure
