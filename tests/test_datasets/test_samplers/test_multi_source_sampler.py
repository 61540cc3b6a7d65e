# Licensed under the Apache License, Version 2.0.
from itertools import islice

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, ConcatDataset

from mmseg_reco.datasets.samplers import multi_source_sampler
from mmseg_reco.datasets.samplers.multi_source_sampler import MultiSourceSampler


class Numbers(BaseDataset):
    def __init__(self, size):
        self.size = size
        super().__init__(serialize_data=False)  # mmengine cannot serialise an empty list

    def load_data_list(self):
        return [dict(number=number) for number in range(self.size)]


def sources(*sizes):
    return ConcatDataset([Numbers(size) for size in sizes])


def take(sampler, count):
    return list(islice(iter(sampler), count))


@pytest.fixture
def as_rank(monkeypatch):
    def set_rank(rank, world_size):
        monkeypatch.setattr(multi_source_sampler, 'get_dist_info', lambda: (rank, world_size))
    return set_rank


def test_ratio_holds_in_every_batch_and_sources_are_used_up_evenly():
    indices = take(MultiSourceSampler(sources(10, 25), 5, [2, 3], seed=1), 5 * 50)
    batches = np.array(indices).reshape(50, 5)
    assert (batches[:, :2] < 10).all() and (batches[:, 2:] >= 10).all()
    assert (batches[:, 2:] < 35).all()
    for epoch in batches[:, :2].reshape(-1, 10):
        assert sorted(epoch) == list(range(10))
    for epoch in batches[:, 2:].reshape(-1)[:150].reshape(-1, 25):
        assert sorted(epoch) == list(range(10, 35))


def test_orders_differ_between_rounds_and_between_sources():
    batches = np.array(take(MultiSourceSampler(sources(20, 20), 2, [1, 1], seed=0), 80))
    first, second = batches[::2], batches[1::2] - 20
    assert (first[:20] != first[20:]).any() and (first != second).any()
    assert (first[:20] != np.arange(20)).any()


def test_seed_decides():
    def indices(seed):
        return take(MultiSourceSampler(sources(9, 9), 4, [1, 1], seed=seed), 100)
    assert indices(3) == indices(3) != indices(4)
    sampler = MultiSourceSampler(sources(9, 9), 4, [1, 1], seed=3)
    assert take(sampler, 100) == take(sampler, 100) == indices(3)
    assert len(set(tuple(indices(seed)) for seed in range(10))) == 10


def test_in_order_without_shuffling():
    sampler = MultiSourceSampler(sources(3, 2), 2, [1, 1], shuffle=False)
    assert take(sampler, 8) == [0, 3, 1, 4, 2, 3, 0, 4]
    assert len(sampler) == 5


def test_ranks_see_different_images(as_rank):
    data, taken = sources(12, 40), []
    for rank in range(3):
        as_rank(rank, 3)
        taken.append(np.array(take(MultiSourceSampler(data, 4, [2, 2], seed=5), 8)).reshape(2, 4))
    labeled = np.concatenate([batch[:, :2].ravel() for batch in taken])
    unlabeled = np.concatenate([batch[:, 2:].ravel() for batch in taken])
    assert sorted(labeled) == list(range(12))  # 3 ranks x 2 batches x 2 images: one round
    assert len(set(unlabeled)) == 12 and (unlabeled >= 12).all()


def test_burn_in_is_of_the_first_source_alone(as_rank):
    data, taken = sources(12, 40), []
    for rank in range(2):
        as_rank(rank, 2)
        sampler = MultiSourceSampler(data, 4, [1, 1], seed=5, burn_in=3)
        taken.append(np.array(take(sampler, 20)).reshape(5, 4))
    labeled = np.stack([batches < 12 for batches in taken])
    assert labeled[:, :3].all()
    assert (labeled[:, 3:] == [True, True, False, False]).all()
    # two ranks, three batches of four: each image twice
    counts = np.bincount(np.concatenate([batches[:3].ravel() for batches in taken]), minlength=12)
    assert counts.tolist() == [2] * 12
    with pytest.raises(ValueError, match='burn_in must be >= 0, got -1'):
        MultiSourceSampler(data, 4, [1, 1], burn_in=-1)


@pytest.mark.parametrize('world_size', [1, 4])
def test_sources_smaller_than_a_batch_and_than_the_number_of_ranks(as_rank, world_size):
    seen = set()
    for rank in range(world_size):
        as_rank(rank, world_size)
        indices = take(MultiSourceSampler(sources(1, 3), 8, [1, 1], seed=0), 80)
        batches = np.array(indices).reshape(10, 8)
        assert (batches[:, :4] == 0).all() and (batches[:, 4:] > 0).all()
        seen |= set(batches.ravel().tolist())
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize(('batch_size', 'ratio', 'message'), [
    (5, [1, 1], 'multiple of 2'), (4, [1, 0], 'above 0'), (4, [1], 'one entry'),
    (4, [0.5, 0.5], 'whole numbers')])
def test_refuses_ratio(batch_size, ratio, message):
    with pytest.raises(ValueError, match=message):
        MultiSourceSampler(sources(3, 3), batch_size, ratio)


def test_refuses_empty_source_and_plain_dataset():
    with pytest.raises(ValueError, match='Source 1'):
        MultiSourceSampler(sources(3, 0), 2, [1, 1])
    with pytest.raises(ValueError, match='ConcatDataset'):
        MultiSourceSampler(Numbers(3), 2, [1, 1])
