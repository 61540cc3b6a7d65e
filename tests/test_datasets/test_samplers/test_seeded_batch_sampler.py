# Licensed under the Apache License, Version 2.0.
import pickle
import random
from itertools import chain, islice

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmseg_reco.datasets.samplers import MultiSourceSampler, SeededBatchSampler, seed_generators


class Draws(Dataset):
    """Each item: its index, and a number from each of the three generators."""

    def __init__(self, size=10):
        self.size = size
        self.loaded = 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.loaded += 1
        return index, random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def samplers(dataset):
    halves = ConcatDataset.__new__(ConcatDataset)
    halves.datasets, halves.cumulative_sizes = [range(4), range(6)], [4, 10]
    return dict(
        infinite=InfiniteSampler(dataset, seed=3), epochs=DefaultSampler(dataset, seed=3),
        sources=MultiSourceSampler(halves, 3, [1, 2], seed=3))


def load(name, first, count, workers=0, **kwargs):
    dataset = Draws()
    batches = SeededBatchSampler(samplers(dataset)[name], 3, **kwargs)
    batches.start(first, 7)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list)
    return list(islice(loader, count)), dataset.loaded


@pytest.mark.parametrize('name', ['infinite', 'epochs', 'sources'])
def test_a_later_start_gives_the_same_batches_and_loads_no_other(name):
    whole, _ = load(name, 0, 12)
    assert len({draw for _, draw, _, _ in chain(*whole)}) == sum(map(len, whole))  # all differ
    for first in (1, 5, 11):
        rest, loaded = load(name, first, 12 - first)
        assert rest == whole[first:]
        assert loaded == sum(map(len, rest))


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_make_no_difference(workers):
    assert load('infinite', 4, 6, workers) == (load('infinite', 4, 6)[0], 0)


def test_order_is_that_of_the_sampler():
    whole, _ = load('infinite', 0, 9)
    expected = islice(iter(InfiniteSampler(range(10), seed=3)), 27)
    assert [index for index, *_ in chain(*whole)] == list(expected)
    # epochs of 10 in batches of 3 end with one; each has its own order
    whole, _ = load('epochs', 0, 8)
    assert [len(batch) for batch in whole] == [3, 3, 3, 1] * 2
    epochs = [[index for index, *_ in chain(*part)] for part in (whole[:4], whole[4:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    sampler = DefaultSampler(range(10), seed=3)
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1]
    assert [len(batch) for batch in load('epochs', 0, 6, drop_last=True)[0]] == [3] * 6


def test_ranks_draw_different_numbers(monkeypatch):
    first, _ = load('infinite', 0, 2)
    monkeypatch.setattr('mmseg_reco.datasets.samplers.seeded_batch_sampler.get_rank', lambda: 1)
    second, _ = load('infinite', 0, 2)
    draws = [{number for _, *numbers in chain(*part) for number in numbers}
             for part in (first, second)]
    assert not draws[0] & draws[1]


def test_a_batch_is_pickled_without_a_draw():
    """A queue pickles it in a thread of its own, in which a draw would disturb the main one."""
    seed_generators(1)
    before = torch.get_rng_state()
    batch = next(iter(SeededBatchSampler(InfiniteSampler(range(9), seed=0), 4)))
    copy = pickle.loads(pickle.dumps(batch))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(copy) == 4 and list(copy) == list(batch)


def test_own_batch_sampler():
    batches = SeededBatchSampler(
        InfiniteSampler(range(9), seed=0), 4, dict(type=BatchSampler, drop_last=True))
    assert isinstance(batches.batches, BatchSampler) and len(batches) == 2


def test_data_that_fill_no_batch():
    sampler = SeededBatchSampler(DefaultSampler(range(3)), 4, drop_last=True)
    with pytest.raises(ValueError, match='do not fill one batch of 4'):
        next(iter(sampler))


def test_generators_have_streams_of_their_own():
    def draw(*numbers):
        seed_generators(*numbers)
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    assert draw(1, 2, 3) == draw(1, 2, 3)
    seen = [draw(*numbers) for numbers in ((1,), (2,), (1, 1), (1, 2), (2, 1), (1, 2, 3))]
    assert len(set(chain(*seen))) == 3 * len(seen)
