# Licensed under the Apache License, Version 2.0.
import time

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
