# Licensed under the Apache License, Version 2.0.
"""Mean representations of classes on the plane in which they differ most."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

_DOT = 8  # points across


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project points on their first two principal axes, by a singular value decomposition.

    Each axis points where its largest coordinate is positive, so that the picture of the same
    points is the same everywhere.

    Args:
        points (np.ndarray): Shape (N, D), finite, N >= 1.

    Returns:
        tuple[np.ndarray, np.ndarray]: Coordinates (N, 2), and the share of the variance that each
        axis explains, (2,), in [0, 1]. Where the points have fewer dimensions, both are 0 there.
    """
    points = np.asarray(points, float)
    centred = points - points.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(points), 2))
    share = np.zeros(2)
    rank = min(2, len(values))
    places[:, :rank] = left[:, :rank] * values[:rank]
    variance = (values**2).sum()
    if variance > 0:
        share[:rank] = values[:rank]**2 / variance
    largest = places[np.abs(places).argmax(0), [0, 1]]
    return places * np.where(largest < 0, -1, 1), share


def draw_class_embeddings(
    iterations: Sequence[int],
    prototypes: np.ndarray,
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Figure:
    """Draw the path of every class's mean representation over training, by PCA.

    All are scaled to length one, as their cosines are what counts, and share one plane, that of
    all classes and iterations. A small dot is the first place of a class, a large one with its
    name the last; the line goes through those between.

    Args:
        iterations (Sequence[int]): T iterations, by ascending order.
        prototypes (np.ndarray): Mean representations (T, C, D); NaN where a class was absent.
        class_names (Sequence[str]): The C names.
        palette (Sequence[Sequence[int]]): RGB of each class, 0-255.

    Returns:
        matplotlib.figure.Figure: Figure with an Agg canvas.

    Raises:
        ValueError: If the shapes do not fit each other, or no class was ever seen.
    """
    prototypes = np.asarray(prototypes, float)
    expected = (len(iterations), len(class_names))
    if prototypes.ndim != 3 or prototypes.shape[:2] != expected:
        raise ValueError(f'Prototypes of {expected[0]} iterations and {expected[1]} classes have '
                         f'the shape {(*expected, "D")}, these have {prototypes.shape}.')
    length = np.linalg.norm(prototypes, axis=2)
    known = length > 0  # not where it is NaN
    if not known.any():
        raise ValueError('No class was ever seen: there are no prototypes to draw.')
    places = np.full((*known.shape, 2), np.nan)
    places[known], share = principal_plane(prototypes[known] / length[known][:, None])

    figure = Figure(figsize=(7.4, 5.4), dpi=110, facecolor='white', layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = np.asarray(palette, float) / 255
    names = []
    for index in np.flatnonzero(known.any(0)):
        path, colour = places[known[:, index], index], colours[index]
        axes.plot(*path.T, color='0.5', linewidth=1.6, alpha=0.25, zorder=1)
        axes.plot(*path.T, color=colour, linewidth=0.9, alpha=0.6, zorder=2)
        axes.scatter(*path[0], s=20, facecolor=colour, edgecolor='black', linewidth=0.7, zorder=3)
        axes.scatter(*path[-1], s=_DOT**2, facecolor=colour, edgecolor='black', zorder=4)
        names.append(axes.annotate(
            class_names[index], path[-1], xytext=(_DOT, 0), textcoords='offset points', fontsize=9,
            va='center', zorder=5, path_effects=[withStroke(linewidth=2.5, foreground='white')],
            arrowprops=dict(arrowstyle='-', linewidth=0.7, relpos=(0, 0.5), shrinkA=0, shrinkB=0)))
    axes.set_xlabel(f'first principal axis: {share[0]:.0%} of the variance', fontsize=9)
    axes.set_ylabel(f'second: {share[1]:.0%}', fontsize=9)
    axes.set_title('Mean representations of classes, from where they were first seen (small) '
                   f'to iteration {iterations[-1]:,}', fontsize=10)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.14, y=0.08)
    axes.spines[['top', 'right']].set_visible(False)
    canvas.draw()  # for the extents of the names
    _spread(names)
    return figure


def _spread(names: list[Annotation]) -> None:
    """Move names up until they cover neither a dot nor each other, from the lowest on.

    A line leads from one that was moved to its dot.
    """
    boxes = [Text.get_window_extent(name) for name in names]  # without their lines
    pixels = names[0].figure.dpi / 72  # of a point
    dots = [name.axes.transData.transform(name.xy) for name in names]
    taken = [Bbox([dot - _DOT * pixels / 2, dot + _DOT * pixels / 2]) for dot in dots]
    for index in np.argsort([box.y0 for box in boxes], kind='stable'):
        box = boxes[index]
        for other in sorted(taken, key=lambda other: other.y0):
            if box.overlaps(other):
                box = box.translated(0, other.y1 - box.y0 + 1)
        taken.append(box)
        moved = (box.y0 - boxes[index].y0) / pixels
        names[index].xyann = (_DOT, moved)
        names[index].arrow_patch.set_visible(moved > 0)
