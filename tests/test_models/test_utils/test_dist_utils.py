# Licensed under the Apache License, Version 2.0.
import torch
from gloo import run_ranks

from mmseg_reco.models.utils import global_avg_factor, summed_over_ranks


def averages(rank):
    values = torch.tensor([1., 2.]) * (rank + 1)
    values.requires_grad_()
    total = summed_over_ranks(values)
    assert not total.requires_grad and values[0] == rank + 1, 'the input is kept'
    return (total.tolist(), global_avg_factor(torch.tensor(4 * rank)).item(),
            global_avg_factor(torch.tensor(0)).item())


def test_averages_of_two_ranks_and_of_one():
    assert run_ranks(averages) == [([3., 6.], 2., 0.5)] * 2
    assert averages(0) == ([1., 2.], 1., 1.)
