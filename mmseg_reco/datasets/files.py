# Licensed under the Apache License, Version 2.0.
"""Files, read wherever mmengine's storage backends do: on disk, by HTTP, in LMDB, in S3.

``backend_args`` are those of :mod:`mmengine.fileio`; None takes the backend from the path's prefix.
The backends agree on ``get`` alone: some have no folders, and each says otherwise that a file is
missing.
"""

import errno
import os
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.fileio.backends import BaseStorageBackend, backends, prefix_to_backends


def backend_of(path: str, backend_args: dict | None = None) -> BaseStorageBackend:
    """The backend that reads a path.

    Raises:
        ValueError: None is registered under the name in ``backend_args``, or for the prefix.
    """
    name = (backend_args or {}).get('backend')
    if name is not None and name not in backends:
        raise ValueError(f"backend_args name the storage backend '{name}', which is not "
                         f'registered; there are {", ".join(sorted(backends))}.')
    prefix = path.rpartition('://')[0].rpartition(':')[2]
    if name is None and prefix not in prefix_to_backends:
        raise ValueError(
            f"No storage backend reads '{path}': name one in backend_args, such as "
            "dict(backend='petrel'), or register one with mmengine.fileio.register_backend.")
    return get_file_backend(path, backend_args=backend_args, enable_singleton=True)


def is_local(path: str, backend_args: dict | None = None) -> bool:
    """Whether a path is one of the file system."""
    return isinstance(backend_of(path, backend_args), LocalBackend)


def join(folder: str | None, *names: str) -> str:
    """A path or address below a folder; names that are absolute or addresses stay as they are."""
    path = folder or ''
    for name in names:
        if '://' in name or osp.isabs(name):
            path = name
        elif '://' in path:
            path = f'{path.rstrip("/")}/{name}'
        else:
            path = osp.join(path, name)
    return path


def address(path: str) -> str:
    """The path as its backend takes it: one of HTTP with blanks and letters of any language coded.

    What is coded already, and parameters behind a question mark, stay as they are.
    """
    if not path.startswith(('http://', 'https://')):
        return path
    return quote(path, safe="%/:?=&~+!$,;'@()*[]")


def read(path: str, backend_args: dict | None = None) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read; the message names it.
        ValueError: No backend reads such paths.
    """
    backend = backend_of(path, backend_args)
    try:
        data = backend.get(address(path))
    except KeyError:  # of backends around a dict
        data = None
    except HTTPError as error:
        if error.code not in (404, 410):
            raise OSError(f"'{path}' cannot be read: {error}") from error
        data = None
    except OSError as error:
        if error.filename is None:  # of an address that does not answer
            raise OSError(f"'{path}' cannot be read: {error}") from error
        raise
    if data is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return bytes(data)


def read_text(path: str, backend_args: dict | None = None) -> str:
    """The text of a list: that of a local file of this path, if there is one.

    So lists may lie on disk while their images lie elsewhere.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read.
        ValueError: No backend reads such paths, or it is no text in UTF-8.
    """
    data = read(path, None if osp.isfile(path) else backend_args)
    try:
        return data.decode('utf-8-sig')  # Windows' editors begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is no text in UTF-8: save it as such.") from error


def file_exists(path: str, backend_args: dict | None = None) -> bool:
    """Whether there is such a file; it is read where the backend cannot tell otherwise."""
    backend = backend_of(path, backend_args)
    if hasattr(backend, 'exists'):
        return backend.exists(path)
    try:
        read(path, backend_args)
    except FileNotFoundError:
        return False
    return True


def can_list(path: str, backend_args: dict | None = None) -> bool:
    """Whether the backend of a folder can list it."""
    return hasattr(backend_of(path, backend_args), 'list_dir_or_file')


def list_files(
    folder: str,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    backend_args: dict | None = None,
) -> list[str]:
    """Sorted paths of the files below a folder, relative to it.

    Raises:
        ValueError: The backend cannot list folders.
        FileNotFoundError: There is no such folder.
    """
    if not can_list(folder, backend_args):
        raise ValueError(cannot_list(folder, backend_args))
    return sorted(backend_of(folder, backend_args).list_dir_or_file(
        folder, list_dir=False, suffix=suffix, recursive=recursive))


def cannot_list(folder: str, backend_args: dict | None = None) -> str:
    """What to do where folders cannot be listed."""
    name = type(backend_of(folder, backend_args)).__name__
    return (f"The folder '{folder}' cannot be listed, as {name} knows single files only: give a "
            'list of names (labeled, unlabeled or ann_file, one name per line) and img_suffix.')


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file to write on disk, which takes the name ``path`` when the block ends without an error.

    So a file of that name is a finished one, and what had the name before is there until then. A
    process that is killed leaves ``.NAME.PID.partial`` beside it.

    Raises:
        OSError: It could not be written; the message names ``path``.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f'{path} could not be written: {error.strerror or error}') from error
