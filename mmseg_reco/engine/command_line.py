# Licensed under the Apache License, Version 2.0.
"""Arguments that tools share, and errors in one sentence."""

import argparse
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import DictAction


def natural(text: str, least: int = 0) -> int:
    """The type of an argument that counts, from 0 on.

    Raises:
        argparse.ArgumentTypeError: It is not an integer, or too small.
    """
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f'must be an integer, at least {least}, got {text}')
    return int(text)


def positive_int(text: str) -> int:
    """The type of an argument that counts, from 1 on; errors as in :func:`natural`."""
    return natural(text, least=1)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as key=value; a list is written key="[a,b]" or '
        'key=a,b, nested ones key="[(a,b),(c,d)]", without spaces',
    )


def add_trust_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint',
        metavar='FILE',
        action='append',
        default=[],
        help='a checkpoint that may be unpickled without restriction, which can run code stored in '
        'it; needed for checkpoints of stock mmseg with a message hub. Repeatable',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of mmseg's own tools, and ``--trust-checkpoint``."""
    add_cfg_options(parser)
    add_trust_checkpoint(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run',
    )
    # torch.distributed.launch hands the rank over in one of these spellings
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; end with usage and one sentence where the config is missing."""
    args = parser.parse_args()
    if not Path(args.config).is_file():
        parser.error(f'no such config file: {args.config}')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


@contextmanager
def usage_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End with usage and one sentence where what the user named is missing or does not fit."""
    try:
        yield
    except (AssertionError, OSError, ValueError, pickle.UnpicklingError) as error:
        parser.error(str(error))  # mmseg asserts that a list is there
