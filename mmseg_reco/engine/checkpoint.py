# Licensed under the Apache License, Version 2.0.
"""Checkpoints that ``torch.load(weights_only=True)`` reads, and a loader that insists on it.

mmengine 0.10 pickles its message hub into every checkpoint, with numpy objects and bound functions
in it; torch >= 2.6 refuses such a file by default, rightly, since unpickling it can run any code.
"""

import io
import logging
import os
import pickle
import re
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.fileio import LocalBackend, get_local_path, register_backend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import find_latest_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmseg_reco.datasets.files import whole_file

# Schemes of mmengine that read a whole file from other storage; the remaining ones end in HTTP.
_STORAGE = (r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'pavi://')
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
        try:
            return torch.tensor(value)
        except TypeError:
            return value.tolist()
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
        """Write to a temporary file beside ``filepath``, flush it to disk, then rename it.

        Raises:
            OSError: The file could not be written; what had this name before still has it.
        """
        with whole_file(filepath) as partial, open(partial, 'wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        if os.name == 'posix':  # so that the name lasts as well
            folder = os.open(Path(filepath).parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write a text as :meth:`put` writes bytes."""
        self.put(obj.encode(encoding), filepath)


def save_atomically(checkpoint: Mapping, filepath: str | Path) -> None:
    """Save a checkpoint by :class:`AtomicLocalBackend`, without what mmengine says of backends.

    Raises:
        OSError: The file could not be written.
    """
    file = io.BytesIO()
    torch.save(checkpoint, file)
    AtomicLocalBackend().put(file.getbuffer(), filepath)


def remove_partial_files(folder: str | Path) -> None:
    """Remove what :class:`AtomicLocalBackend` left half-written when its process was killed."""
    for partial in sorted(Path(folder).glob('.*.partial')):
        partial.unlink(missing_ok=True)


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Find the checkpoint to resume from, also in a work directory that was moved or copied.

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
    for path in (Path(work_dir) / Path(recorded).name, Path(recorded)):  # a copy has its own
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
    with open(filename, 'rb') as file:
        if file.read(1) not in (b'', b'P', b'\x80'):  # a zip archive, or a pickle
            raise ValueError(f'{filename} is no checkpoint: torch.save did not write this file.')
    is_trusted = any(os.path.realpath(filename) == os.path.realpath(path) for path in trusted)
    try:
        checkpoint = torch.load(filename, map_location=map_location, weights_only=not is_trusted)
    except (EOFError, IndexError, OSError, RuntimeError, pickle.UnpicklingError,
            struct.error) as error:
        if _misses_end(error):
            raise ValueError(
                f'{filename} is not a complete checkpoint (cut short while it was written or '
                f'copied?): {error}'
            ) from error
        if not isinstance(error, pickle.UnpicklingError):
            raise
        raise pickle.UnpicklingError(
            f'{filename} is not a plain checkpoint: reading it can run code stored in it '
            f'({_unsafe_content(filename, error)}). If you trust where it comes from, say so with: '
            f'--trust-checkpoint {filename}'
        ) from None
    drop_config(checkpoint)
    return checkpoint


def _misses_end(error: Exception) -> bool:
    """Whether this is one of the ways in which torch reports that a file ends too early."""
    return isinstance(error, (EOFError, IndexError, struct.error)) or any(
        words in str(error) for words in ('Invalid argument', 'PytorchStreamReader',
                                          'unexpected EOF', 'pickle data was truncated'))


def drop_config(checkpoint: dict) -> None:
    """Take the text of the config out of a checkpoint: mmengine's resume would execute it."""
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)


def check_fits(checkpoint: Mapping, model: torch.nn.Module, name: str, partly: bool) -> None:
    """Refuse a checkpoint of another method, or one of another number of classes.

    mmengine only logs what does not fit, and goes on with random weights in its place.

    Args:
        checkpoint: Of mmengine, or bare weights by name.
        model: What they are for.
        name: The checkpoint's name in messages.
        partly: Whether it is enough if some weights fit, as they start a training.

    Raises:
        ValueError: No weight fits; or, unless ``partly``, one is missing or has another shape.
    """
    given = {re.sub(r'^module\.', '', key): value
             for key, value in checkpoint.get('state_dict', checkpoint).items()}
    own = model.state_dict()
    if hasattr(model, 'student') and not any(key.startswith('student.') for key in given):
        given = {f'student.{key}': value for key, value in given.items()}  # starts both networks
        own = {key: value for key, value in own.items() if key.startswith('student.')}
    common = [key for key in own if key in given]
    if not common:
        raise ValueError(
            f'{name} holds no weight of this {type(model).__name__}: it is a checkpoint of another '
            f'method or of a part. Its names begin with {_heads(given)}, those of the model with '
            f'{_heads(own)}. Name a checkpoint that this config made; weights of a backbone alone '
            "belong in the backbone's init_cfg=dict(type='Pretrained', checkpoint=...).")
    if partly:
        return
    for key in common:
        shape, wanted = tuple(given[key].shape), tuple(own[key].shape)
        if shape != wanted:
            classes = f' It was trained with num_classes={shape[0]}.' if 'conv_seg' in key else ''
            raise ValueError(f'{name} does not fit the config: {key} is of shape {shape} in the '
                             f'checkpoint, {wanted} in the model.{classes}')
    missing = [key for key in own if key not in given
               and not re.search(r'num_batches_tracked$|projector\.|auxiliary_head\.', key)]
    if missing:
        raise ValueError(
            f'{name} does not fit the config: it lacks {len(missing)} of the {len(own)} weights of '
            f'the model, the first is {missing[0]}.')


def _heads(names: Mapping) -> str:
    return ', '.join(sorted({str(name).split('.')[0] for name in names})[:6]) or 'nothing'


def _unsafe_content(filename: str, error: pickle.UnpicklingError) -> str:
    """Name what ``weights_only`` loading objects to, as completely as this torch can."""
    list_globals = getattr(torch.serialization, 'get_unsafe_globals_in_checkpoint', None)
    try:
        return 'it needs ' + ', '.join(sorted(list_globals(filename)))
    except Exception:  # an older torch, or an old file format: the point of its own words
        words = str(error).rpartition('WeightsUnpickler error: ')[-1]
        return re.split(r' was not an allowed|\. Please|\n', words.strip())[0]


@contextmanager
def safe_checkpoint_loading(trusted: Sequence[str] = ()) -> Iterator[None]:
    """Within this context mmengine reads checkpoints, local or not, through :func:`load_local`.

    Args:
        trusted: Files and addresses that the user has said to trust.
    """

    def load_from_local(filename: str, map_location: Any = None) -> dict:
        return load_local(filename, map_location, trusted)

    def load_from_storage(filename: str, map_location: Any = None) -> dict:
        with get_local_path(filename) as path:
            return load_local(path, map_location, [path] if filename in trusted else ())

    def load_url(url: str, map_location: Any = None, progress: bool = True, **_: Any) -> dict:
        path = download(url, progress)
        return load_local(path, map_location, [path] if url in trusted else trusted)

    stock = dict(CheckpointLoader._schemes), mmengine_checkpoint.load_url
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(_STORAGE, load_from_storage, force=True)
    # http(s)://, torchvision://, open-mmlab:// and mmcls:// all end in this one function
    mmengine_checkpoint.load_url = load_url
    try:
        yield
    finally:
        for scheme, loader in stock[0].items():
            CheckpointLoader.register_scheme(scheme, loader, force=True)
        mmengine_checkpoint.load_url = stock[1]


def download(url: str, progress: bool = True) -> str:
    """Path of the local copy of a file, made now unless it is there, where torch.hub keeps it."""
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(urlparse(url).path))
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        torch.hub.download_url_to_file(url, path, progress=progress)
    return path
