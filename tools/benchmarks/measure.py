# Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: time and peak memory of a step, on the CPU and on CUDA."""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from mmengine.utils import track_iter_progress
from torch.profiler import ProfilerActivity, profile

# The profiler announces each start and stop otherwise.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')


Item = TypeVar('Item')


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


def elapsed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``step`` takes: between two events on CUDA, of this process on the CPU.

    On the CPU that is the time its threads run, all together: with one thread what the clock says
    on an idle machine, and on a busy one without the waits for a core.
    """
    if device.type == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize(device)
        return 1e-3 * start.elapsed_time(end)
    begin = time.process_time()
    step()
    return time.process_time() - begin


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors alive at once during ``step``, beyond those alive before it.

    On the CPU from torch's own record of every allocation: the same figure as CUDA's, the same in
    every run, and untouched by what else the process or the machine does, all of which the size of
    the process (``ru_maxrss``) is not. Neither figure has the workspaces of math libraries.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
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
