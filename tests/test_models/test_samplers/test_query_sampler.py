# Licensed under the Apache License, Version 2.0.
"""Query samplers: from where, how often, and independent of what."""
import pytest
import torch
from mmseg.registry import TASK_UTILS
from scipy import stats

from mmseg_reco.models.samplers import build_pixel_index

# Class 0: 3 hard and 4 easy pixels; 1: easy only; 2: absent; 3: one hard pixel; 4: hard only.
LABELS = torch.tensor([4, 0, 1, 0, 255, 0, 0, 4, -1, 0, 3, 1, 0, 4, 0, 5])
HARD = torch.tensor([1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
NUM_CLASSES = 5
SAMPLERS = ('ActiveQuerySampler', 'RandomQuerySampler')


def pool_of(sampler_type, c):
    """Pixels of class c that the sampler may draw, by a loop."""
    active = sampler_type == 'ActiveQuerySampler'
    return [i for i in range(len(LABELS)) if LABELS[i] == c and (HARD[i] or not active)]


def draw(sampler_type, num_queries, seed=0, labels=LABELS, hard=HARD, num_classes=NUM_CLASSES):
    index = build_pixel_index(labels, hard, num_classes)
    generator = torch.Generator().manual_seed(seed)
    return TASK_UTILS.build(dict(type=sampler_type)).sample(index, num_queries, generator=generator)


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_shapes_range_and_active_flags(sampler_type):
    pixels, active = draw(sampler_type, 9)
    assert pixels.shape == (NUM_CLASSES, 9) and pixels.dtype == torch.int64
    assert active.dtype == torch.bool
    assert active.tolist() == [bool(pool_of(sampler_type, c)) for c in range(NUM_CLASSES)]
    assert pixels.min() >= 0 and pixels.max() < len(LABELS)


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_uniform_with_replacement_over_the_pool(sampler_type):
    num_queries = 6000
    pixels, active = draw(sampler_type, num_queries)
    for c in range(NUM_CLASSES):
        if not active[c]:
            continue
        pool = pool_of(sampler_type, c)
        counts = torch.bincount(pixels[c], minlength=len(LABELS))
        assert counts[pool].sum() == num_queries, f'class {c}: drawn outside its pool'
        if len(pool) > 1:
            assert stats.chisquare(counts[pool].numpy()).pvalue > 1e-4


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_queries_are_independent_of_each_other_and_across_classes(sampler_type):
    pixels, _ = draw(sampler_type, 6000, seed=1)
    for first, second in ((pixels[0, :-1], pixels[0, 1:]), (pixels[0], pixels[4])):
        table = torch.zeros(len(LABELS), len(LABELS))
        table.index_put_((first, second), torch.ones(len(first)), accumulate=True)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        assert stats.chi2_contingency(table.numpy()).pvalue > 1e-4


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_generator_alone_decides(sampler_type):
    state = torch.get_rng_state()
    first, again, other = (draw(sampler_type, 50, seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state), 'the global generator was used'


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_global_generator_is_the_default(sampler_type):
    index = build_pixel_index(LABELS, HARD, NUM_CLASSES)
    sampler = TASK_UTILS.build(dict(type=sampler_type))
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(sampler.sample(index, 50)[0])
    assert torch.equal(*draws)


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_nothing_valid(sampler_type):
    labels = torch.full((4, ), 255)
    pixels, active = draw(sampler_type, 3, labels=labels, hard=torch.ones(4, dtype=torch.bool))
    assert not active.any()
    assert pixels.shape == (NUM_CLASSES, 3)
    assert pixels.min() >= 0 and pixels.max() < 4


@pytest.mark.parametrize('sampler_type', SAMPLERS)
@pytest.mark.usefixtures('edge_draws')
def test_edge_values_of_the_uniform_stay_in_the_pool(sampler_type):
    pixels, active = draw(sampler_type, 3)
    for c in range(NUM_CLASSES):
        assert pixels.min() >= 0 and pixels.max() < len(LABELS)
        if active[c]:
            assert set(pixels[c].tolist()) <= set(pool_of(sampler_type, c))


@pytest.mark.parametrize('count', (3, 1000, 65537, 524287))
def test_last_pixel_is_in_the_pool_for_large_classes(monkeypatch, count):
    rand = torch.rand
    monkeypatch.setattr(
        torch, 'rand', lambda *args, **kwargs: torch.full_like(
            rand(*args, **kwargs), 1 - torch.finfo(torch.float32).eps / 2))
    labels = torch.cat([torch.zeros(count), torch.ones(2)]).long()
    hard = torch.ones(count + 2, dtype=torch.bool)
    pixels, _ = draw('ActiveQuerySampler', 2, labels=labels, hard=hard, num_classes=2)
    assert (labels[pixels[0]] == 0).all() and (labels[pixels[1]] == 1).all()
