# Licensed under the Apache License, Version 2.0.
"""Key samplers: class and pixel frequencies, independence, and what may never be drawn."""
import pytest
import torch
from mmseg.registry import TASK_UTILS
from scipy import stats

from mmseg_reco.models.samplers import build_pixel_index

COUNTS = (4, 0, 1, 7, 3, 0)  # pixels of each class: 1 and 5 are absent
NUM_CLASSES = len(COUNTS)
PRESENT = [c for c in range(NUM_CLASSES) if COUNTS[c]]
SAMPLERS = ('ActiveKeySampler', 'RandomKeySampler')
TEMPERATURE = 0.4


def make_labels(counts=COUNTS, not_valid=5, seed=0):
    labels = torch.cat([torch.full((n, ), c) for c, n in enumerate(counts)] +
                       [torch.full((not_valid, ), 255)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


LABELS = make_labels()


def make_relation(num_classes=NUM_CLASSES, present=tuple(PRESENT), seed=0):
    """Cosines of random prototypes; zero where a class is absent."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.nn.functional.normalize(
        torch.randn(num_classes, 3, generator=generator), dim=1)
    relation = prototypes @ prototypes.T
    absent = [c for c in range(num_classes) if c not in present]
    relation[absent], relation[:, absent] = 0, 0
    return relation


RELATION = make_relation()


def draw(sampler_type, num_queries, num_negatives, seed=0, labels=LABELS, relation=RELATION,
         temperature=TEMPERATURE, hard=False):
    index = build_pixel_index(labels, torch.full_like(labels, hard, dtype=torch.bool),
                              len(relation))
    sampler = TASK_UTILS.build(dict(type=sampler_type))
    class_probs = sampler.class_probs(relation, index.count > 0, temperature)
    return sampler.sample(index, class_probs, num_queries, num_negatives,
                          generator=torch.Generator().manual_seed(seed))


def expected_pixel_probs(sampler_type, c, labels=LABELS, relation=RELATION,
                         temperature=TEMPERATURE):
    """Chance of every pixel to be a negative of class c, by a loop (float64)."""
    present = sorted(set(labels.tolist()) - {255})
    others = [q for q in present if q != c]
    logits = torch.tensor([float(relation[c, q]) / temperature for q in others],
                          dtype=torch.float64)
    if sampler_type == 'RandomKeySampler':
        logits = torch.zeros_like(logits)
    probs = torch.zeros(len(labels), dtype=torch.float64)
    for q, chance in zip(others, logits.softmax(0), strict=True):
        members = [i for i in range(len(labels)) if labels[i] == q]
        for i in members:
            probs[i] = chance / len(members)
    return probs


def chi_square_p(counts, probs):
    assert counts[probs == 0].sum() == 0, 'a pixel without a chance was drawn'
    counts, probs = counts[probs > 0].double(), probs[probs > 0]
    return stats.chisquare(counts.numpy(), (probs * counts.sum() / probs.sum()).numpy()).pvalue


def assert_independent(first, second):
    """Two streams of draws, by the contingency table; too even is as wrong as too uneven."""
    table = torch.zeros(len(LABELS), len(LABELS))
    table.index_put_((first.flatten(), second.flatten()), torch.ones(first.numel()),
                     accumulate=True)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    assert 1e-4 < stats.chi2_contingency(table.numpy()).pvalue < 1 - 1e-4


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_shape_dtype_range(sampler_type):
    pixels = draw(sampler_type, 5, 7)
    assert pixels.shape == (NUM_CLASSES, 5, 7) and pixels.dtype == torch.int64
    assert pixels.min() >= 0 and pixels.max() < len(LABELS)


@pytest.mark.parametrize('temperature', (0.1, 0.5, 2.0))
@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_class_frequencies_follow_the_softmax(sampler_type, temperature):
    pixels = draw(sampler_type, 60, 500, temperature=temperature)
    for c in PRESENT:
        probs = expected_pixel_probs(sampler_type, c, temperature=temperature)
        drawn = LABELS[pixels[c].flatten()]
        counts = torch.tensor([(drawn == q).sum() for q in range(NUM_CLASSES)])
        assert counts.sum() == drawn.numel(), 'a pixel that is not valid was drawn'
        class_probs = torch.stack([probs[LABELS == q].sum() for q in range(NUM_CLASSES)])
        assert chi_square_p(counts, class_probs) > 1e-4
        assert counts[c] == 0


def test_the_test_of_frequencies_tells_the_samplers_apart():
    for c in PRESENT:
        counts = torch.bincount(draw('RandomKeySampler', 60, 500)[c].flatten(),
                                minlength=len(LABELS))
        assert chi_square_p(counts, expected_pixel_probs('RandomKeySampler', c)) > 1e-4
        assert chi_square_p(counts, expected_pixel_probs('ActiveKeySampler', c)) < 1e-12


@pytest.mark.parametrize('hard', (False, True))
@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_pixels_are_uniform_within_their_class(sampler_type, hard):
    """Keys come from all valid pixels of the negative class, hard or not."""
    pixels = draw(sampler_type, 60, 500, seed=1, hard=hard)
    for c in PRESENT:
        counts = torch.bincount(pixels[c].flatten(), minlength=len(LABELS))
        assert chi_square_p(counts, expected_pixel_probs(sampler_type, c)) > 1e-4


def test_hardness_of_some_pixels_does_not_matter():
    half = torch.arange(len(LABELS)) % 2 == 0
    index = build_pixel_index(LABELS, half, NUM_CLASSES)
    sampler = TASK_UTILS.build(dict(type='ActiveKeySampler'))
    class_probs = sampler.class_probs(RELATION, index.count > 0, TEMPERATURE)
    pixels = sampler.sample(index, class_probs, 60, 500,
                            generator=torch.Generator().manual_seed(2))
    for c in PRESENT:
        counts = torch.bincount(pixels[c].flatten(), minlength=len(LABELS))
        assert chi_square_p(counts, expected_pixel_probs('ActiveKeySampler', c)) > 1e-4


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_negatives_are_independent(sampler_type):
    pixels = draw(sampler_type, 60, 500, seed=3)
    for c in PRESENT:
        assert_independent(pixels[c, 0::2], pixels[c, 1::2])  # from query to query
        assert_independent(pixels[c, :, 0::2], pixels[c, :, 1::2])  # from key to key
    assert_independent(pixels[0], pixels[3])  # from class to class


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_every_query_has_its_own_negatives(sampler_type):
    """Class histograms of the queries scatter as multinomials do: neither less nor more."""
    pixels = draw(sampler_type, 200, 300, seed=4)
    for c in PRESENT:
        drawn = LABELS[pixels[c]]
        table = torch.stack([(drawn == q).sum(1) for q in PRESENT if q != c], dim=1)
        assert 1e-4 < stats.chi2_contingency(table.numpy()).pvalue < 1 - 1e-4


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_two_classes_take_from_each_other(sampler_type):
    labels = make_labels((0, 3, 0, 1))
    pixels = draw(sampler_type, 4, 50, labels=labels, relation=make_relation(4, (1, 3)))
    assert (labels[pixels[1]] == 3).all()
    assert (labels[pixels[3]] == 1).all()


@pytest.mark.parametrize('counts', ((0, 0, 0), (0, 5, 0), (1, 0, 0), (0, 0, 1)))
@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_fewer_than_two_classes_give_ids_in_range(sampler_type, counts):
    labels = make_labels(counts, not_valid=2)
    pixels = draw(sampler_type, 2, 3, labels=labels, relation=torch.zeros(3, 3))
    assert pixels.shape == (3, 2, 3)
    assert pixels.min() >= 0 and pixels.max() < len(labels)


@pytest.mark.parametrize('temperature', (1e-4, 1e-2, 1e4))
def test_extreme_temperatures(temperature):
    """exp(1 / 1e-4) overflows any float; the softmax must not."""
    pixels = draw('ActiveKeySampler', 20, 50, temperature=temperature)
    for c in PRESENT:
        probs = expected_pixel_probs('ActiveKeySampler', c, temperature=temperature)
        counts = torch.bincount(pixels[c].flatten(), minlength=len(LABELS))
        possible = probs > 1e-9
        assert counts[~possible].sum() == 0
        assert chi_square_p(counts[possible], probs[possible]) > 1e-4 or possible.sum() == 1


@pytest.mark.parametrize('sampler_type', SAMPLERS)
@pytest.mark.usefixtures('edge_draws')
def test_edge_values_of_the_uniform_stay_in_present_classes(sampler_type):
    for seed in range(20):  # the rounding of a cumulative sum depends on the relation
        counts = (0, 2, 1, 3, 4, 1, 0) if seed % 2 else (2, 1, 0, 1, 0, 0, 3)
        present = [c for c, n in enumerate(counts) if n]
        labels = make_labels(counts)
        pixels = draw(sampler_type, 2, 3, labels=labels,
                      relation=make_relation(len(counts), present, seed=seed))
        assert pixels.min() >= 0 and pixels.max() < len(labels)
        for c in present:
            assert set(labels[pixels[c]].flatten().tolist()) <= set(present) - {c}


@pytest.mark.parametrize('sampler_type', SAMPLERS)
def test_generator_alone_decides(sampler_type):
    state = torch.get_rng_state()
    first, again, other = (draw(sampler_type, 3, 50, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state), 'the global generator was used'
