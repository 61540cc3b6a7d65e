# Licensed under the Apache License, Version 2.0.
"""Checkpoints that ``torch.load(weights_only=True)`` reads, and a loader that insists on it.

mmengine 0.10 pickles its message hub into every checkpoint, with numpy objects and bound functions
in it; torch >= 2.6 refuses such a file by default, rightly, since unpickling it can run any code.
"""

import logging
import os
import pickle
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import find_latest_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def to_plain(value: Any, name: str = 'checkpoint') -> Any:
    """Rebuild a nested value from types that ``weights_only`` loading allows.

    numpy scalars become numbers, arrays become tensors (lists, where torch has no such dtype), any
    mapping a dict, any sequence or set a list (tuples stay tuples), paths strings. Tensors are
    handed through. A type outside these is kept, with a warning that names its place: nothing is
    lost, but the file then needs consent to be read.

    Args:
        value: What is to be saved.
        name: Where the value stands, for the warning.
    """
    if type(value) in _PLAIN or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.tensor(value) if value.dtype.kind in 'bifc' else value.tolist()
    if isinstance(value, Mapping):
        return {to_plain(k, name): to_plain(v, f'{name}.{k}') for k, v in value.items()}
    if isinstance(value, (list, tuple, deque, set, frozenset)):
        items = [to_plain(item, f'{name}[{i}]') for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for base in (int, float, str):  # enumerations and other subclasses
        if isinstance(value, base):
            return base(value)
    print_log(
        f'{name} holds a {type(value).__name__}, which only an unsafe load can read back.',
        logger='current',
        level=logging.WARNING,
    )
    return value


def pack_history(buffer: HistoryBuffer) -> dict:
    """Turn a history buffer into ``{'log', 'count'}`` tensors (N,) and ``'max_length'``."""
    log, count = buffer.data
    return dict(log=torch.tensor(log), count=torch.tensor(count), max_length=int(buffer.max_length))


def unpack_history(packed: Mapping) -> HistoryBuffer:
    """Undo :func:`pack_history`."""
    return HistoryBuffer(
        packed['log'].cpu().numpy(), packed['count'].cpu().numpy(), packed['max_length']
    )


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """Local files that appear under their name only when they are complete.

    A run killed while it writes leaves the previous checkpoint, never half of one.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write to a temporary file beside ``filepath``, flush it to disk, then rename it."""
        filepath = Path(filepath)
        partial = filepath.with_name(f'.{filepath.name}.{os.getpid()}.partial')
        filepath.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, filepath)
        finally:
            partial.unlink(missing_ok=True)


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Find the checkpoint to resume from, also in a work directory that has been moved.

    Args:
        work_dir: Directory that holds mmengine's ``last_checkpoint`` file.

    Returns:
        Path of the checkpoint; None where nothing has been saved yet.

    Raises:
        FileNotFoundError: ``last_checkpoint`` names a file that is gone.
    """
    recorded = find_latest_checkpoint(str(work_dir))
    if recorded is None:
        return None
    for path in (Path(recorded), Path(work_dir) / Path(recorded).name):
        if path.is_file():
            return str(path)
    raise FileNotFoundError(
        f'{Path(work_dir) / "last_checkpoint"} names {recorded}, which does not exist. Write the '
        'name of a checkpoint that does into it, or train without --resume.'
    )


def load_local(filename: str, map_location: Any = None, trusted: Sequence[str] = ()) -> dict:
    """Read a checkpoint file without running code from it, unless the caller trusts that file.

    Args:
        filename: Path of the file.
        map_location: As in :func:`torch.load`.
        trusted: Files that may be unpickled without restriction.

    Raises:
        FileNotFoundError: There is no such file.
        pickle.UnpicklingError: The file needs objects other than tensors and plain values.
        ValueError: The file is cut short or is no checkpoint.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'No such checkpoint: {filename}')
    is_trusted = any(os.path.realpath(filename) == os.path.realpath(path) for path in trusted)
    try:
        return torch.load(filename, map_location=map_location, weights_only=not is_trusted)
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(
            f'{filename} is not a plain checkpoint: reading it can run code stored in it '
            f'({_unsafe_content(filename, error)}). If you trust where it comes from, say so with: '
            f'--trust-checkpoint {filename}'
        ) from None
    except (EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and 'PytorchStreamReader' not in str(error):
            raise
        raise ValueError(
            f'{filename} is not a complete checkpoint (cut short while it was written or copied?): '
            f'{error}'
        ) from error


def _unsafe_content(filename: str, error: pickle.UnpicklingError) -> str:
    """Name what ``weights_only`` loading objects to, as completely as this torch can."""
    list_globals = getattr(torch.serialization, 'get_unsafe_globals_in_checkpoint', None)
    try:
        return 'it needs ' + ', '.join(sorted(list_globals(filename)))
    except Exception:  # an older torch, or an old file format: its own words have to do
        return str(error).strip().splitlines()[0]


@contextmanager
def safe_checkpoint_loading(trusted: Sequence[str] = ()) -> Iterator[None]:
    """Within this context mmengine reads local checkpoints through :func:`load_local`.

    Args:
        trusted: Files that the user has said to trust.
    """

    def load_from_local(filename: str, map_location: Any = None) -> dict:
        return load_local(filename, map_location, trusted)

    stock = CheckpointLoader._schemes['']
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    try:
        yield
    finally:
        CheckpointLoader.register_scheme('', stock, force=True)
