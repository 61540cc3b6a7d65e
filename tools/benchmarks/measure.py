# Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: time and memory of a step, on the CPU and on CUDA, and its spread."""

import ctypes
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from mmengine.utils import track_iter_progress
from torch.profiler import ProfilerActivity, profile

# The profiler announces each start and stop otherwise.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')


Item = TypeVar('Item')


class Seconds(NamedTuple):
    """By the clock, and of all threads of this process."""

    wall: float
    cpu: float


class Held(NamedTuple):
    """Bytes beyond those held before: at most on the way, and in the end."""

    peak: int
    kept: int


def bar(items: Sequence[Item]) -> Iterator[Item]:
    """Go over the items with a progress bar on standard error."""
    yield from track_iter_progress(items, file=sys.stderr)
    print(file=sys.stderr)


def machine(device: torch.device) -> str:
    """One line about what a benchmark runs on."""
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path('/proc/cpuinfo')
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
        name = models[0] if models else platform.processor()
        name = (f'{name}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores, '
                f'load average {os.getloadavg()[0]:.1f}')
    return f'{name}, torch {torch.__version__}'


def spread(values: Sequence[float] | np.ndarray, digits: int = 1) -> str:
    """Median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f'{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def timed(step: Callable[[], object], device: torch.device) -> Seconds:
    """Seconds that ``step`` takes, until the device has done what it asks for."""
    synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    step()
    synchronize(device)
    return Seconds(time.perf_counter() - start, time.process_time() - cpu_start)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> str:
    """Which of :class:`Seconds` to go by: on a CPU, which others may use too, those of the process.

    With one thread that is what the clock says on an idle machine, and on a busy one without the
    waits for a core.
    """
    return 'cpu' if device.type == 'cpu' else 'wall'


def elapsed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``step`` takes, by the :func:`clock` of the device."""
    return getattr(timed(step, device), clock(device))


def held(step: Callable[[], object], device: torch.device) -> Held:
    """Memory of tensors on CUDA, of the whole process on the CPU (Linux).

    The latter moves by some 100 MB from run to run, but needs no record of every allocation, which
    of a long loop fills gigabytes.
    """
    if device.type == 'cuda':
        gc.collect()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return Held(torch.cuda.max_memory_allocated(device) - before,
                    torch.cuda.memory_allocated(device) - before)
    release()
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = resident('VmRSS')
    step()
    peak = resident('VmHWM') - before
    release()
    return Held(peak, resident('VmRSS') - before)


def release() -> None:
    """Hand free memory back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def resident(field: str) -> int:
    """A line of Linux' memory account of this process, in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors alive at once during ``step``, beyond those alive before it.

    On the CPU from torch's own record of every allocation: the same figure as CUDA's, the same in
    every run, and untouched by what else the process or the machine does, all of which the size of
    the process (:func:`held`) is not. Neither figure has the workspaces of math libraries.
    """
    if device.type == 'cuda':
        step()  # libraries keep the workspaces that they take at first
        return held(step, device).peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / 'trace.json'
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())['traceEvents']
    changes = [event['args'] for event in events if event['name'] == '[memory]']
    if not changes:
        return 0
    # The count runs on from earlier records of the same process.
    before = changes[0]['Total Allocated'] - changes[0]['Bytes']
    return max(change['Total Allocated'] for change in changes) - before
