# Licensed under the Apache License, Version 2.0.
"""What the converters share: reading index masks, writing whole files or none, running tasks."""

import argparse
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from mmengine.config import DictAction
from mmengine.utils import track_parallel_progress, track_progress
from PIL import Image

from mmseg_reco.datasets.files import list_files, read, whole_file
from mmseg_reco.datasets.splits import read_names
from mmseg_reco.engine.command_line import positive_int


def make_parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser with an example in its help, and the options that all converters have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f'example:\n  python tools/dataset_converters/{example}')
    parser.add_argument('--workers', type=positive_int, default=1, help='processes (default: 1)')
    parser.add_argument(
        '--backend-args', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='how mmengine reads files that are not on disk, such as backend=petrel; an address '
        'like http://... or s3://... needs none')
    return parser


def listed_names(path: str, backend_args: dict | None = None) -> list[str]:
    """Read a list of images that may come from anybody.

    Raises:
        ValueError: If the list is empty, holds a name twice, or a name that leaves the folder it is
            looked up in, which could lead to files being read or written elsewhere.
        FileNotFoundError: If there is no such list.
    """
    return _inside(read_names(path, backend_args), path)


def found_files(
    folder: str, suffix: str, recursive: bool = False, backend_args: dict | None = None
) -> list[str]:
    """Sorted paths of the files of a folder, relative to it; none if there is no such folder.

    Raises:
        ValueError: If the storage cannot list folders, or if a name leaves the folder.
    """
    try:
        return _inside(list_files(folder, suffix, recursive, backend_args), folder)
    except FileNotFoundError:
        return []


def _inside(names: list[str], source: str) -> list[str]:
    for name in names:
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(name).anchor or '..' in kind(name).parts:
                raise ValueError(f"{source} lists '{name}', which leads out of its folder: names of"
                                 " images hold neither '..' nor a leading '/'.")
    return names


def read_image(path: str, backend_args: dict | None = None) -> Image.Image:
    """Open an image.

    Raises:
        ValueError: If the file is no image.
        FileNotFoundError: If there is no such file.
    """
    try:
        image = Image.open(BytesIO(read(path, backend_args)))
        image.load()
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:  # the latter is Pillow's, of a PNG with a hole
        raise ValueError(f'{path} cannot be read as an image: {error}') from error
    return image


def read_mask(path: str, backend_args: dict | None = None) -> Image.Image:
    """Open a mask of class indices.

    Raises:
        ValueError: If the file is missing, is no image, or is not an 8-bit single-channel one.
    """
    try:
        mask = read_image(path, backend_args)
    except FileNotFoundError as error:
        raise ValueError(f'The mask {path} is missing.') from error
    if mask.mode not in ('L', 'P'):
        raise ValueError(
            f"{path} is an image of mode '{mask.mode}', but a mask must be an 8-bit grey or "
            'palette image of class indices. Convert colours to indices first.'
        )
    return mask


def class_set(
    path: str,
    ignore_index: int = 255,
    reduce_zero_label: bool = False,
    backend_args: dict | None = None,
) -> frozenset[int]:
    """Classes that a mask shows, void excluded.

    Args:
        path (str): The mask.
        ignore_index (int): Index of void pixels.
        reduce_zero_label (bool): Whether label 0 is void and the others count from 1.
        backend_args (dict, optional): Of mmengine.
    """
    counts = np.bincount(np.asarray(read_mask(path, backend_args)).ravel(), minlength=256)
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
    with whole_file(path) as partial:
        image.save(partial, format=Image.registered_extensions()[path.suffix], **options)


def save_names(names: Sequence[str], path: Path) -> None:
    """Write a list, one name per line, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(''.join(f'{name}\n' for name in names).encode())


def copy_file(source: str, path: Path, backend_args: dict | None = None) -> None:
    """Copy a file to disk whole or not at all."""
    data = read(source, backend_args)
    with whole_file(path) as partial:
        partial.write_bytes(data)


def process(function: Callable, tasks: Sequence, workers: int) -> list:
    """Run ``function`` on every task with a progress bar; results keep the tasks' order."""
    if workers > 1:
        return track_parallel_progress(function, tasks, workers)
    return track_progress(function, tasks)


def run(main: Callable[[], None]) -> None:
    """Run a command; what is wrong with the user's data ends it with one line, not a trace."""
    try:
        main()
    except FileNotFoundError as error:
        _stop(f"'{error.filename}' does not exist." if error.filename else str(error))
    except (OSError, ValueError) as error:
        _stop(str(error))


def _stop(sentence: str) -> None:
    print(f'\nerror: {sentence}', file=sys.stderr)
    stop = SystemExit(sentence)
    stop.code = 2
    raise stop
