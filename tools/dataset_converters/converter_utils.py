# Licensed under the Apache License, Version 2.0.
"""What the converters share: reading index masks, writing whole files or none, running tasks."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from mmengine.utils import track_parallel_progress, track_progress
from PIL import Image

from mmseg_reco.datasets.splits import read_names


def listed_names(path: Path | str) -> list[str]:
    """Read a list of images that may come from anybody.

    Raises:
        ValueError: If the list is empty, holds a name twice, or a name that leaves the folder it is
            looked up in, which could lead to files being read or written elsewhere.
    """
    names = read_names(str(path))
    for name in names:
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(name).anchor or '..' in kind(name).parts:
                raise ValueError(f"{path} lists '{name}', which leads out of its folder: names of "
                                 "images hold neither '..' nor a leading '/'.")
    return names


def read_mask(path: Path) -> Image.Image:
    """Open a mask of class indices.

    Raises:
        ValueError: If the file is missing, is no image, or is not an 8-bit single-channel one.
    """
    if not path.is_file():
        raise ValueError(f'The mask {path} is missing.')
    try:
        mask = Image.open(path)
        mask.load()
    except OSError as error:
        raise ValueError(f'{path} cannot be read as an image: {error}') from error
    if mask.mode not in ('L', 'P'):
        raise ValueError(
            f"{path} is an image of mode '{mask.mode}', but a mask must be an 8-bit grey or "
            'palette image of class indices. Convert colours to indices first.'
        )
    return mask


def class_set(
    path: Path, ignore_index: int = 255, reduce_zero_label: bool = False
) -> frozenset[int]:
    """Classes that a mask shows, void excluded.

    Args:
        path (Path): The mask.
        ignore_index (int): Index of void pixels.
        reduce_zero_label (bool): Whether label 0 is void and the others count from 1.
    """
    counts = np.bincount(np.asarray(read_mask(path)).ravel(), minlength=256)
    present = set(np.flatnonzero(counts).tolist()) - {ignore_index}
    if reduce_zero_label:
        present = {label - 1 for label in present - {0}}
    return frozenset(present)


def index_png(labels: np.ndarray, palette: list[int] | None = None) -> Image.Image:
    """Image of class indices, shape (H, W), dtype uint8, in the given palette if there is one."""
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette(palette)
    return image


def save_image(image: Image.Image, path: Path, **options) -> None:
    """Write an image whole or not at all, so that a file that exists is a finished one."""
    file_format = Image.registered_extensions()[path.suffix]
    _write_whole(path, partial(image.save, format=file_format, **options))


def save_names(names: Sequence[str], path: Path) -> None:
    """Write a list, one name a line, whole or not at all."""
    _write_whole(path, lambda file: file.write(''.join(f'{name}\n' for name in names).encode()))


def copy_file(source: Path, path: Path) -> None:
    """Copy a file whole or not at all."""
    _write_whole(path, lambda file: file.write(source.read_bytes()))


def process(function: Callable, tasks: Sequence, workers: int) -> list:
    """Run ``function`` on every task with a progress bar; results keep the tasks' order."""
    if workers > 1:
        return track_parallel_progress(function, tasks, workers)
    return track_progress(function, tasks)


def run(main: Callable[[], None]) -> None:
    """Run a command; what is wrong with the user's data ends it with one line, not a trace."""
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'\nerror: {error}')


def _write_whole(path: Path, write: Callable) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # the process id keeps two runs into one folder apart
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(unfinished, 'wb') as file:
            write(file)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
