# Licensed under the Apache License, Version 2.0.
import sys
import time

import numpy as np
import pytest
import torch

CPU = torch.device('cpu')


@pytest.fixture
def measure(load_benchmark):
    return load_benchmark('measure')


def make_bytes(num):
    return torch.empty(num, dtype=torch.uint8)


def test_peak_memory_is_the_most_alive_at_once(measure):
    kept = []

    def step():
        first = make_bytes(3000)
        second = make_bytes(5000)  # 8000 with the first
        del first
        kept.append(second)
        make_bytes(2000)  # gone before the next
        make_bytes(2500)  # 7500 with the second

    assert measure.peak_memory(step, CPU) == 8000
    # what the first pass left behind does not count in the second
    assert measure.peak_memory(step, CPU) == 8000
    kept.clear()
    assert measure.peak_memory(lambda: None, CPU) == 0


def test_peak_memory_sees_the_backward_pass(measure):
    weight = torch.ones(1000, requires_grad=True)

    def step():
        torch.autograd.grad((weight * weight.detach()).sum(), weight)

    # product and sum, then the gradient of the product (expanded from one number) and of the weight
    assert 4000 + 4 <= measure.peak_memory(step, CPU) <= 8000 + 64


def test_time_on_the_cpu_leaves_out_waiting(measure):
    def work():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    assert measure.elapsed(lambda: time.sleep(0.2), CPU) < 0.05
    assert 0.05 <= measure.elapsed(work, CPU) < 0.2


def test_clock_and_process_are_told_apart(measure):
    took = measure.timed(lambda: time.sleep(0.2), CPU)
    assert took.wall >= 0.2 and took.cpu < 0.1


@pytest.mark.skipif(sys.platform != 'linux', reason="reads Linux' account of memory")
def test_memory_of_the_process(measure):
    kept = []

    def step():
        kept.append(np.ones(2**23))  # 64 MiB
        np.ones(2**24)

    memory = measure.held(step, CPU)
    assert 180 < memory.peak / 2**20 < 220 and 55 < memory.kept / 2**20 < 80


def test_spread_is_median_and_quartiles(measure):
    assert measure.spread([4, 1, 2, 3, 5]) == '3.0 [2.0, 4.0]'
    assert measure.spread(np.array([1, 2]), 3) == '1.500 [1.250, 1.750]'


def test_machine_names_threads_and_torch(measure):
    line = measure.machine(CPU)
    assert f'{torch.get_num_threads()} thread(s)' in line
    assert torch.__version__ in line


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda(measure):
    device = torch.device('cuda')
    step = lambda: torch.zeros(2**20, dtype=torch.uint8, device=device).add_(1)  # noqa: E731
    step()
    assert measure.peak_memory(step, device) == 2**20
    assert 0 < measure.elapsed(step, device) < 1
    assert torch.cuda.get_device_name(device) in measure.machine(device)
