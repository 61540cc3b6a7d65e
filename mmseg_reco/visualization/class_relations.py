# Licensed under the Apache License, Version 2.0.
"""The class-relation graph of ReCo as pictures (paper section 3.3)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import EngFormatter
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

_MOST_ANNOTATED = 12  # beyond this many classes the numbers no longer fit their cells
_SHOWN = 4  # of a history
_PAIRS = ('#0072b2', '#e69f00', '#009e73')  # told apart with any colour vision


def class_tree(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Cluster classes by average linkage on the distance 1 - cosine.

    Two classes that were seen, but never in the same step, count as unrelated (cosine 0).

    Args:
        matrix (np.ndarray): Cosines (C, C); NaN where a class was absent.

    Returns:
        tuple[np.ndarray, np.ndarray | None]: Classes (C,) in the order of the leaves, close ones
        side by side, and those that were never seen at the end; and SciPy's linkage (S - 1, 4) of
        the S classes seen, None where S < 2.
    """
    matrix = np.asarray(matrix, float)
    seen = np.isfinite(matrix).any(1)
    classes, never = np.flatnonzero(seen), np.flatnonzero(~seen)
    if len(classes) < 2:
        return np.concatenate([classes, never]), None
    cosine = np.nan_to_num(matrix[np.ix_(seen, seen)])
    distance = (1 - (cosine + cosine.T) / 2).clip(0)
    tree = linkage(squareform(distance, checks=False), 'average', optimal_ordering=True)
    leaves = dendrogram(tree, no_plot=True)['leaves']
    return np.concatenate([classes[leaves], never]), tree


def draw_class_relations(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw the relation matrix G, the cosine between the mean representations of two classes.

    On the left the matrix, from purple (opposite) over white (unrelated) to brown (alike), which
    readers with any colour vision tell apart, with values in the cells of up to 12 classes. On the
    right the tree of :func:`class_tree`, in whose order the classes stand. A class that was never
    seen is grey and has no part in the tree; of fewer than two there is none.

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
    order, tree = class_tree(matrix)
    matrix = matrix[np.ix_(order, order)]
    names = [class_names[index] for index in order]
    side = max(3.2, 0.46 * count + 1.4) if count <= _MOST_ANNOTATED else 0.26 * count + 2
    branches = 0 if tree is None else min(max(2.2, side / 3), 4)
    figure = Figure(
        figsize=(side + branches + 0.7, side), dpi=120, facecolor='white', layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=[side, branches]) if branches else None
    axes = figure.add_subplot(grid[0] if branches else 111)
    picture = _show(axes, matrix)
    axes.set_xticks(range(count), names, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0, labelsize=8)
    axes.set_title('Class relations: cosine of mean representations', fontsize=9)
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
    everything = [axes]
    if branches:
        everything.append(figure.add_subplot(grid[1], sharey=axes))
        _draw_tree(everything[1], tree)
    bar = figure.colorbar(picture, ax=everything, shrink=0.8, aspect=30)
    bar.ax.tick_params(labelsize=8)
    return figure


def _show(axes: Axes, matrix: np.ndarray) -> AxesImage:
    colours = colormaps['PuOr_r'].with_extremes(bad='0.75')
    return axes.imshow(
        np.ma.masked_invalid(matrix), cmap=colours, vmin=-1, vmax=1, aspect='auto')


def _draw_tree(axes: Axes, tree: np.ndarray) -> None:
    """Branches whose leaves stand beside the rows of a matrix in the same order."""
    parts = dendrogram(tree, no_plot=True)
    for along, across in zip(parts['dcoord'], parts['icoord'], strict=True):
        axes.plot(along, (np.array(across) - 5) / 10, color='black', linewidth=1.2)
    axes.set_xlim(left=0)
    axes.tick_params(axis='y', left=False, labelleft=False)
    axes.tick_params(axis='x', labelsize=8)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.set_xlabel('1 − cosine', fontsize=8)
    axes.set_title('joined from close to far', fontsize=9)


def mean_relation(matrix: np.ndarray) -> float:
    """Mean cosine (scalar) of two different classes of a graph (C, C), NaN entries left out."""
    values = _pairs(matrix)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else np.nan


def _pairs(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.triu_indices(len(matrix), 1)]


def draw_relation_history(
    iterations: Sequence[int], matrices: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Draw how the relation graph moved over training.

    Above, up to four of the graphs, from the first in which classes met to the last, with the
    classes in the order of the tree of their average. Below, the cosine of two different classes
    against the iteration: the mean of all pairs, the range of the middle 80 percent, and the three
    pairs that end up closest.

    Args:
        iterations (Sequence[int]): T iterations, by ascending order, T >= 2.
        matrices (np.ndarray): Cosines (T, C, C); NaN where a class was absent.
        class_names (Sequence[str]): The C names.

    Returns:
        matplotlib.figure.Figure: Figure with an Agg canvas.

    Raises:
        ValueError: If the shapes do not fit each other, or T < 2.
    """
    matrices = np.asarray(matrices, float)
    count = len(class_names)
    if len(iterations) < 2 or matrices.shape != (len(iterations), count, count):
        raise ValueError(
            f'A history needs two graphs or more and, with {len(iterations)} iterations and '
            f'{count} class names, the shape ({len(iterations)}, {count}, {count}), but has '
            f'{matrices.shape}.'
        )
    known = np.isfinite(matrices)
    order, _ = class_tree(
        np.divide(np.where(known, matrices, 0).sum(0), known.sum(0),
                  out=np.full((count, count), np.nan), where=known.any(0)))
    names = [class_names[index] for index in order]
    pairs = np.array([_pairs(matrix) for matrix in matrices])
    met = np.flatnonzero(np.isfinite(pairs).any(1))
    first = met[0] if len(met) else 0
    chosen = np.unique(np.linspace(first, len(matrices) - 1, _SHOWN).round().astype(int))
    side = max(2.2, 0.12 * count)
    figure = Figure(
        figsize=(side * len(chosen) + 1.8, side + 2.5), dpi=110, facecolor='white',
        layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, len(chosen), height_ratios=[side, 2])
    maps = []
    for place, index in enumerate(chosen):
        axes = figure.add_subplot(grid[0, place])
        picture = _show(axes, matrices[index][np.ix_(order, order)])
        axes.set_title(f'iteration {iterations[index]:,}', fontsize=9)
        axes.set_xticks([])
        axes.set_yticks(range(count), names if place == 0 else [''] * count, fontsize=7)
        axes.tick_params(length=0)
        maps.append(axes)
    figure.colorbar(picture, ax=maps, shrink=0.9).ax.tick_params(labelsize=8)

    axes = figure.add_subplot(grid[1, :])
    low, high = np.full((2, len(pairs)), np.nan)
    if len(met):
        low[met], high[met] = np.nanpercentile(pairs[met], (10, 90), axis=1)
    axes.fill_between(iterations, low, high, color='0.85', label='middle 80 % of pairs')
    axes.plot(iterations, [mean_relation(matrix) for matrix in matrices], color='black',
              linewidth=2, label='mean of all pairs')
    rows, columns = np.triu_indices(count, 1)
    closest = np.argsort(-np.nan_to_num(pairs[-1], nan=-np.inf), kind='stable')[:len(_PAIRS)]
    for pair, colour, marker in zip(closest, _PAIRS, 'osD', strict=False):
        if np.isfinite(pairs[-1, pair]):
            axes.plot(iterations, pairs[:, pair], color=colour, marker=marker, markersize=4,
                      label=f'{class_names[rows[pair]]} – {class_names[columns[pair]]}')
    axes.set_ylabel('cosine', fontsize=9)
    axes.set_xlabel('iteration', fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.tick_params(labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(handles=axes.get_legend_handles_labels()[0], loc='outside lower center', ncols=5,
                  fontsize=8, frameon=False)
    return figure
