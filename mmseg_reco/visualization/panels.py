# Licensed under the Apache License, Version 2.0.
"""Panels of images and label maps side by side, with a legend of the classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from .cells import Cell, Dots, PseudoLabels, classes_in, draw_cell
from .images import figure_to_rgb

#: Width of a panel in inches that fits a page.
PANEL_WIDTH = 9.6
DPI = 100
_GAP = 0.03  # between cells, in inches
_LEGEND_ROW = 0.26
# Of more classes than this, the legend names only those that are shown.
_MOST_NAMED = 24


def draw_panel(
    columns: Mapping[str, Sequence[Cell]],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    ignore_index: int = 255,
    column_width: float = 2.4,
    row_labels: Sequence[str] | None = None,
    notes: Mapping[str, Sequence[int]] | None = None,
) -> np.ndarray:
    """Draw titled columns of pictures, one row a sample, over a legend of the classes.

    Args:
        columns (dict): Title to pictures, top to bottom; each an RGB image (H, W, 3) uint8, a
            label map (H, W) of integers, a map (H, W) of floats in [0, 1], :class:`PseudoLabels`
            or :class:`Dots`. All columns hold equally many.
        class_names (Sequence[str]): Names for the legend.
        palette (Sequence[Sequence[int]]): RGB of each class, 0-255.
        ignore_index (int): Value of pixels without a label in label maps.
        column_width (float): Width of a column in inches, at 100 dots an inch.
        row_labels (Sequence[str], optional): A line of text over each row.
        notes (dict, optional): Further entries of the legend, text to RGB, 0-255.

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
    cells = [cell for pictures in columns.values() for cell in pictures]
    shown = {int(label) for cell in cells for label in classes_in(cell)}
    classes = [
        Patch(facecolor=np.divide(colour, 255), edgecolor='black', linewidth=0.6, label=name)
        for index, (name, colour) in enumerate(zip(class_names, palette, strict=True))
        if len(class_names) <= _MOST_NAMED or index in shown
    ]
    remarks = [
        Patch(facecolor=np.divide(colour, 255), edgecolor='black', linewidth=0.6, label=text)
        for text, colour in (notes or {}).items()
    ] + _hatched(cells, ignore_index in shown)

    width = column_width * len(columns)
    longest = max((len(patch.get_label()) for patch in classes), default=1)
    legend_columns = max(1, min(len(classes), int(width / max(1.05, 0.42 + 0.07 * longest))))
    class_rows = -(-len(classes) // legend_columns)
    legend_height = _LEGEND_ROW * (class_rows + bool(remarks)) + 0.12
    title_height = 0.17 * max(title.count('\n') for title in columns) + 0.34
    label_height = 0.24 if row_labels else 0
    first = next(iter(columns.values()))
    row_heights = [column_width * shape[0] / shape[1] for shape in map(_shape, first)]
    height = title_height + sum(row_heights) + label_height * len(first) + legend_height

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor='white')
    for column, title in enumerate(columns):
        figure.text(
            (column + 0.5) / len(columns), 1 - title_height / height, title, fontsize=10,
            ha='center', va='bottom', linespacing=1.1)
    bottom = height - title_height
    for row, row_height in enumerate(row_heights):
        if row_labels:
            bottom -= label_height
            figure.text(
                _GAP / width, (bottom + 0.06) / height, row_labels[row], fontsize=9, va='baseline')
        bottom -= row_height
        for column, pictures in enumerate(columns.values()):
            box = (column * column_width + _GAP / 2, bottom + _GAP / 2, column_width - _GAP,
                   row_height - _GAP)
            axes = figure.add_axes(np.divide(box, (width, height, width, height)))
            size = (max(1, round(box[3] * DPI)), max(1, round(box[2] * DPI)))
            draw_cell(axes, pictures[row], size, palette, ignore_index)
    style = dict(
        loc='lower center', frameon=False, fontsize=9, handlelength=1.2, handleheight=1.0,
        columnspacing=1.2, borderaxespad=0.1)
    figure.legend(
        handles=classes, ncols=legend_columns,
        bbox_to_anchor=(0.5, _LEGEND_ROW * bool(remarks) / height), **style)
    if remarks:
        figure.legend(handles=remarks, ncols=len(remarks), **style)
    return figure_to_rgb(figure)


def save_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture, into a folder that is made if there is none.

    Args:
        picture (np.ndarray): RGB (height, width, 3), uint8.
        path (str | Path): The file; its suffix says the format.

    Raises:
        OSError: It could not be written, or there is no such format; the message names the file.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise OSError(f'{path} could not be written: {reason}') from error


def _shape(cell: Cell) -> Sequence[int]:
    if isinstance(cell, Dots):
        return cell.picture.shape
    return cell.labels.shape if isinstance(cell, PseudoLabels) else cell.shape


def _hatched(cells: Sequence[Cell], ignored: bool) -> list[Patch]:
    """Entries of the legend for what is hatched."""
    entries = []
    if ignored:
        entries.append(Patch(facecolor='0.82', edgecolor='0.6', hatch='////', label='no label'))
    for threshold in sorted({cell.threshold for cell in cells if isinstance(cell, PseudoLabels)}):
        entries.append(Patch(facecolor='white', edgecolor='black', hatch='\\\\\\\\',
                             label=f'confidence below {threshold:g}'))
    return entries
