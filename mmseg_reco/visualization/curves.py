# Licensed under the Apache License, Version 2.0.
"""Quality of pseudo-labels over training, one panel for each class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

# Told apart with any colour vision, and by their dashes.
_LINES = dict(
    precision=dict(color='#0072b2', linestyle='-', marker='o'),
    coverage=dict(color='#e69f00', linestyle='--', marker='s'),
    recall=dict(color='black', linestyle=':', marker='^'))


def draw_pseudo_label_quality(
    iterations: Sequence[int],
    quality: dict[str, np.ndarray],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Draw precision, coverage and recall of each class's pseudo-labels against the iteration.

    Args:
        iterations (Sequence[int]): T iterations, by ascending order.
        quality (dict): 'precision', 'coverage' and 'recall', each of shape (T, C) in [0, 1]; NaN
            where there is nothing to divide by.
        class_names (Sequence[str]): The C names.
        title (str): What was measured.

    Returns:
        matplotlib.figure.Figure: Figure with an Agg canvas.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    expected = (len(iterations), len(class_names))
    for name, values in quality.items():
        if np.shape(values) != expected:
            raise ValueError(f'{name} of {expected[0]} iterations and {expected[1]} classes has '
                             f'the shape {expected}, this has {np.shape(values)}.')
    count = len(class_names)
    columns = min(count, max(4, int(np.ceil(np.sqrt(count)))))
    rows = -(-count // columns)
    figure = Figure(figsize=(1.75 * columns + 0.5, 1.35 * rows + 0.9), dpi=110, facecolor='white',
                    layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= count:
            axes.set_axis_off()
            continue
        for name, style in _LINES.items():
            axes.plot(iterations, quality[name][:, index], label=name, markersize=2.5,
                      linewidth=1.5, **style)
        axes.set_title(class_names[index], fontsize=9, pad=3)
        axes.set_ylim(-0.03, 1.03)
        axes.grid(color='0.9')
        axes.tick_params(labelsize=7, labelbottom=index + columns >= count)
        axes.spines[['top', 'right']].set_visible(False)
    axes = grid[0, 0]
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.xaxis.get_major_locator().set_params(nbins=4)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel('iteration', fontsize=9)
    figure.legend(handles=axes.lines, ncols=3, loc='outside lower right', fontsize=9, frameon=False)
    return figure
