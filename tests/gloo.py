# Licensed under the Apache License, Version 2.0.
"""Runs a function in several gloo processes of this machine, and never waits for ever."""
import random
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # noqa: F401  the optimizer would import it in every process: 1 s each
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 120  # seconds; a few are needed on an idle machine


def _rank(rank: int, world_size: int, folder: Path, function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    # Processes of their own would not have one random state in common, as forks have.
    random.seed(rank)
    np.random.seed(rank)  # noqa: NPY002
    torch.manual_seed(rank)
    try:
        dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank,
                                world_size=world_size, timeout=timedelta(seconds=TIMEOUT))
        torch.save(function(rank, *args), folder / f'{rank}.pth')
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f'{rank}.txt').write_text(traceback.format_exc())


def run_ranks(function: Callable, *args: Any, world_size: int = 2,
              timeout: float = TIMEOUT) -> list:
    """Results of ``function(rank, *args)``, by rank.

    An error in a rank, or ranks that wait for each other longer than the timeout, fail the test.
    The processes are forks: they need no second to start, and the function may be a local one.
    """
    context = mp.get_context('fork')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [context.Process(target=_rank, args=(rank, world_size, folder, function, args))
                     for rank in range(world_size)]
        for process in processes:
            process.start()
        end = time.monotonic() + timeout
        for process in processes:
            process.join(max(end - time.monotonic(), 0.1))
        waiting = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for rank in waiting:
            processes[rank].kill()
            processes[rank].join()
        errors = [path.read_text() for path in sorted(folder.glob('*.txt'))]
        if errors or waiting:
            pytest.fail('\n'.join([f'ranks {waiting} still wait', *errors]), pytrace=False)
        return [torch.load(folder / f'{rank}.pth', weights_only=False)
                for rank in range(world_size)]
