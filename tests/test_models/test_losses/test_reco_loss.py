# Licensed under the Apache License, Version 2.0.
"""ReCo loss against the loop oracle: draw by draw, in the mean, and at the edges."""
import math
import random
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.registry import MODELS, TASK_UTILS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import mmseg_reco.models.losses  # noqa: F401
from mmseg_reco.models.samplers import ActiveKeySampler

sys.path.insert(0, str(Path(__file__).parents[2]))
from oracles import reco_oracle as oracle  # noqa: E402

NUM_CLASSES, ABSENT, EASY = 5, 3, 1
FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def build_loss(**kwargs):
    return MODELS.build(dict(type='ReCoLoss', **kwargs))


def make_batch(batch=2, channels=5, height=5, width=6, seed=0):
    """Clustered representations; class 3 absent, class 1 without hard pixels, some void."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, height, width)
    labels = torch.randint(NUM_CLASSES, shape, generator=generator)
    labels[labels == ABSENT] = 255
    labels[torch.rand(shape, generator=generator) < 0.1] = 255
    centres = torch.randn(NUM_CLASSES, channels, generator=generator)
    embeddings = centres[labels.clamp(max=NUM_CLASSES - 1)].permute(0, 3, 1, 2)
    embeddings = embeddings + 0.6 * torch.randn(embeddings.shape, generator=generator)
    probs = 0.01 + 0.95 * torch.rand(batch, NUM_CLASSES, height, width, generator=generator)
    probs[:, 0] = torch.where(torch.rand(shape, generator=generator) < 0.5, 0.99, 0.3)
    probs[:, EASY] = 0.999
    return embeddings.contiguous(), labels, probs


def loss_and_grad(loss, embeddings, labels, probs, seed=0):
    embeddings = embeddings.detach().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    value = loss(embeddings, labels, probs, generator=generator)
    grad, = torch.autograd.grad(value, embeddings)
    return value.detach(), grad


def read_scene(embeddings, labels, probs, threshold=0.97, **kwargs):
    embeddings = embeddings.detach().double().requires_grad_()
    return embeddings, oracle.read_scene(embeddings, labels, probs, threshold, **kwargs)


@TASK_UTILS.register_module()
class ReplayedQueries:
    """Hands out given queries."""

    def __init__(self, pixels, active):
        self.pixels, self.active = pixels, active

    def sample(self, index, num_queries, generator=None):
        return self.pixels, self.active


@TASK_UTILS.register_module()
class ReplayedKeys(ActiveKeySampler):
    """Hands out given negative keys, of as many classes as asked for at a time."""

    def __init__(self, pixels):
        self.pixels, self.done = pixels, 0

    def sample(self, index, class_probs, num_queries, num_negatives, generator=None):
        self.done += len(class_probs)
        return self.pixels[self.done - len(class_probs):self.done]


def replay(scene, num_queries, num_negatives, temperature, seed=0):
    """A draw of the oracle, and a loss that uses it."""
    queries, keys = oracle.random_draw(scene, num_queries, num_negatives, temperature,
                                       random.Random(seed))
    pixels = torch.zeros(NUM_CLASSES, num_queries, dtype=torch.int64)
    negatives = torch.zeros(NUM_CLASSES, num_queries, num_negatives, dtype=torch.int64)
    active = torch.zeros(NUM_CLASSES, dtype=torch.bool)
    for c in queries:
        pixels[c], negatives[c] = torch.tensor(queries[c]), torch.tensor(keys[c])
        active[c] = True
    loss = build_loss(
        num_queries=num_queries, num_negatives=num_negatives, temperature=temperature,
        query_sampler=dict(type='ReplayedQueries', pixels=pixels, active=active),
        key_sampler=dict(type='ReplayedKeys', pixels=negatives))
    return queries, keys, loss


# --------------------------------------------------------------------------- draw by draw


@pytest.mark.parametrize('num_negatives', (1, 16, 100))  # 100 is more than there are pixels
@pytest.mark.parametrize('temperature', (0.1, 0.5, 2.0))
@pytest.mark.parametrize('dtype', (torch.float32, torch.float64))
def test_given_draw_equals_oracle(num_negatives, temperature, dtype):
    embeddings, labels, probs = make_batch()
    attached, scene = read_scene(embeddings, labels, probs)
    queries, keys, loss = replay(scene, 8, num_negatives, temperature)
    assert sorted(queries) == [0, 2, 4] and scene.present == [0, 1, 2, 4]
    expected = oracle.loss_of_draw(scene, queries, keys, temperature)
    expected_grad, = torch.autograd.grad(expected, attached)
    value, grad = loss_and_grad(loss, embeddings.to(dtype), labels, probs)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    assert value.dtype == grad.dtype == dtype
    torch.testing.assert_close(value.double(), expected.detach(), rtol=tolerance, atol=0)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0,
                               atol=tolerance * float(expected_grad.abs().max()))


@pytest.mark.parametrize('classes_at_once', (1, 2, 4))
def test_classes_may_be_drawn_in_parts(monkeypatch, classes_at_once):
    monkeypatch.setattr(mmseg_reco.models.losses.reco_loss, 'NEGATIVES_AT_ONCE',
                        classes_at_once * 8 * 16 + 1)
    embeddings, labels, probs = make_batch()
    attached, scene = read_scene(embeddings, labels, probs)
    queries, keys, loss = replay(scene, 8, 16, 0.5)
    expected = oracle.loss_of_draw(scene, queries, keys, 0.5)
    expected_grad, = torch.autograd.grad(expected, attached)
    value, grad = loss_and_grad(loss, embeddings.double(), labels, probs)
    assert loss.key_sampler.done == NUM_CLASSES
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, expected_grad)


def test_class_means_of_images_in_parts(monkeypatch):
    """One image at a time, as for very many classes."""
    embeddings, labels, probs = make_batch(batch=3)
    expected = loss_and_grad(build_loss(num_queries=8, num_negatives=8), embeddings, labels, probs)
    monkeypatch.setattr(mmseg_reco.models.losses.reco_loss, 'MEMBERSHIP_ELEMENTS', 1)
    parts = loss_and_grad(build_loss(num_queries=8, num_negatives=8), embeddings, labels, probs)
    for one, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_is_the_finite_difference_with_keys_held_fixed():
    """Moving a query moves the loss; moving it as a key or in a prototype does not count."""
    embeddings, labels, probs = make_batch()
    _, scene = read_scene(embeddings, labels, probs)
    queries, keys, loss = replay(scene, 8, 16, 0.5)
    _, grad = loss_and_grad(loss, embeddings.double(), labels, probs)

    def fixed_key_loss(moved):
        vectors = oracle.read_scene(moved, labels, probs, 0.97).vectors
        total = 0.
        for c in queries:
            positive = oracle.prototype(scene, c)
            for query, negatives in zip(queries[c], keys[c], strict=True):
                scores = [oracle.cosine(vectors[query], positive)]
                scores += [oracle.cosine(vectors[query], scene.vectors[k]) for k in negatives]
                scores = torch.stack(scores).detach() / 0.5
                total += float(scores.logsumexp(0) - scores[0])
        return total / 8 / len(scene.present)

    step = 1e-5
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        direction = torch.randn(embeddings.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (fixed_key_loss(embeddings.double() + sign * step * direction)
                         for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        assert float((grad * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_only_queries_receive_gradient():
    embeddings, labels, probs = make_batch()
    _, scene = read_scene(embeddings, labels, probs)
    queries, _, loss = replay(scene, 3, 16, 0.5)
    _, grad = loss_and_grad(loss, embeddings, labels, probs)
    touched = grad.permute(0, 2, 3, 1).flatten(0, 2).abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == sorted({q for c in queries for q in queries[c]})


def test_probs_receive_no_gradient():
    embeddings, labels, probs = make_batch()
    embeddings.requires_grad_(), probs.requires_grad_()
    build_loss(num_queries=4, num_negatives=4)(embeddings, labels, probs).backward()
    assert embeddings.grad.abs().sum() > 0
    assert probs.grad is None or not probs.grad.any()


# --------------------------------------------------------------------------- in the mean

VARIANTS = {(query, key): (f'{query}QuerySampler', f'{key}KeySampler')
            for query in ('Active', 'Random') for key in ('Active', 'Random')}


def draw_many(variant, num_draws, batch, **kwargs):
    """Losses and gradients of many draws, and the standard error of their mean loss."""
    loss = build_loss(query_sampler=dict(type=VARIANTS[variant][0]),
                      key_sampler=dict(type=VARIANTS[variant][1]), **kwargs)
    draws = [loss_and_grad(loss, *batch, seed) for seed in range(num_draws)]
    values = torch.stack([value for value, _ in draws]).double()
    grads = torch.stack([grad for _, grad in draws]).double()
    return values, grads, float(values.std()) / math.sqrt(num_draws)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('num_negatives, temperature, threshold',
                         [(16, 0.5, 0.97), (4, 0.2, 0.97), (32, 0.1, 0.6)])
def test_mean_over_draws_equals_exact_mean(variant, num_negatives, temperature, threshold):
    """Loss and gradient, against the closed form over all draws.

    The loss must be within 4 standard errors (estimated to 4 % from 300 draws). So must every
    gradient component within 4.5, of 70 to 205 that move, and their root mean square be near 1;
    where no draw moves a component, its exact mean must be 0.
    """
    batch = make_batch()
    values, grads, error = draw_many(variant, 300, batch, num_queries=8, strong_threshold=threshold,
                                     num_negatives=num_negatives, temperature=temperature)
    attached, scene = read_scene(*batch, threshold)
    active_query, active_key = (name == 'Active' for name in variant)
    exact = oracle.mean_loss(scene, num_negatives, temperature, active_query, active_key)
    exact_grad, = torch.autograd.grad(exact, attached)
    assert abs(float(values.mean() - exact.detach())) < 4 * error

    spread = grads.std(0) / math.sqrt(len(grads))
    moving = spread > 0
    pool = {i for c in scene.present for i in oracle.query_pool(scene, c, active_query)}
    assert moving.sum() == len(pool) * batch[0].shape[1]
    assert (exact_grad[~moving].abs() < 1e-9).all()
    z = (grads.mean(0) - exact_grad)[moving] / spread[moving]
    assert z.abs().max() < 4.5
    assert 0.7 < float(z.square().mean().sqrt()) < 1.3


@pytest.mark.parametrize('variant', VARIANTS)
def test_mean_tells_the_samplers_apart(variant):
    """The check above can fail: the exact means of the other samplers are far away."""
    batch = make_batch()
    values, _, error = draw_many(variant, 300, batch, num_queries=64, num_negatives=4,
                                 temperature=0.2)
    _, scene = read_scene(*batch)
    for other in VARIANTS:
        active_query, active_key = (name == 'Active' for name in other)
        exact = float(oracle.mean_loss(scene, 4, 0.2, active_query, active_key).detach())
        distance = abs(float(values.mean()) - exact) / error
        assert distance < 4 if other == variant else distance > 8


def test_spread_over_draws_equals_oracle():
    """Queries that shared their negatives would have the right mean and a larger spread.

    Standard deviation of 400 draws each: 3.5 % of standard error on either side, 5 % on the ratio.
    """
    embeddings, labels, probs = make_batch()
    loss = build_loss(num_queries=8, num_negatives=1, temperature=0.2)
    values = torch.stack(
        [loss_and_grad(loss, embeddings, labels, probs, seed)[0] for seed in range(400)])
    _, scene = read_scene(embeddings.detach(), labels, probs)
    rng = random.Random(0)
    expected = []
    with torch.no_grad():
        for _ in range(400):
            draw = oracle.random_draw(scene, 8, 1, 0.2, rng)
            expected.append(oracle.loss_of_draw(scene, *draw, 0.2))
    expected = torch.stack(expected)
    exact = oracle.mean_loss(scene, 1, 0.2).detach()
    assert abs(expected.mean() - exact) < 4 * expected.std() / 20, 'the oracle contradicts itself'
    assert float(values.std() / expected.std()) == pytest.approx(1, abs=0.2)


# --------------------------------------------------------------------------- who takes part


def test_class_without_hard_pixels_adds_nothing_but_counts():
    """Making every class but one easy leaves that one's loss, divided by all present classes."""
    embeddings, labels, probs = make_batch()
    probs = torch.where(torch.arange(NUM_CLASSES)[:, None, None] == 4, 0.5, 0.999).expand_as(probs)
    same = torch.ones_like(embeddings)
    value, _ = loss_and_grad(build_loss(num_queries=4, num_negatives=7), same, labels, probs)
    assert float(value) == pytest.approx(math.log(8) / 4, rel=1e-5)


def test_absent_classes_change_nothing():
    """Ten further classes that nobody has: the same loss distribution, hence exact mean."""
    embeddings, labels, probs = make_batch()
    more = torch.cat([probs, torch.rand(2, 10, 5, 6)], dim=1)
    loss = build_loss(num_queries=64, num_negatives=16)
    values = torch.stack(
        [loss_and_grad(loss, embeddings, labels, more, seed)[0] for seed in range(60)])
    _, scene = read_scene(embeddings, labels, probs)
    exact = float(oracle.mean_loss(scene, 16, 0.5).detach())
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(60)
    assert loss.present.tolist() == [c in scene.present for c in range(NUM_CLASSES + 10)]


@pytest.mark.parametrize('ignore_index', (255, -1, 2))
def test_ignore_index_takes_pixels_out(ignore_index):
    """Also where it is a class' own number."""
    embeddings, labels, probs = make_batch()
    labels = torch.where(labels == 255, ignore_index, labels)
    loss = build_loss(num_queries=64, num_negatives=16, ignore_index=ignore_index)
    values = torch.stack(
        [loss_and_grad(loss, embeddings, labels, probs, seed)[0] for seed in range(60)])
    _, scene = read_scene(embeddings, labels, probs, ignore_index=ignore_index)
    assert (2 in scene.present) == (ignore_index != 2)
    exact = float(oracle.mean_loss(scene, 16, 0.5).detach())
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(60)


@pytest.mark.parametrize('dtype', FLOAT_TYPES)
def test_threshold_is_exclusive_and_not_rounded(dtype):
    """Hard means below the threshold; 0.96875 is, also where 0.97 itself would round to it."""
    labels = torch.tensor([[[0, 0, 1, 1]]])
    embeddings = torch.randn(1, 3, 1, 4, generator=torch.Generator().manual_seed(0))
    loss = build_loss(num_queries=2, num_negatives=2)
    loss(embeddings, labels, torch.full((1, 2, 1, 4), 0.96875, dtype=dtype))
    assert float(loss.diagnostics['hard_query_share']) == 1
    loss = build_loss(num_queries=2, num_negatives=2, strong_threshold=0.96875)
    loss(embeddings, labels, torch.full((1, 2, 1, 4), 0.96875, dtype=dtype))
    assert float(loss.diagnostics['hard_query_share']) == 0


def test_diagnostics_relation_and_present():
    embeddings, labels, probs = make_batch()
    loss = build_loss(num_queries=6, num_negatives=10, temperature=0.3)
    embeddings.requires_grad_()
    loss(embeddings, labels, probs)
    _, scene = read_scene(embeddings, labels, probs)
    valid = sum(len(members) for members in scene.members)
    diagnostics = loss.diagnostics
    assert float(diagnostics['hard_query_share']) == pytest.approx(
        sum(len(hard) for hard in scene.hard) / valid)
    assert int(diagnostics['classes_present']) == 4
    expected = torch.zeros(NUM_CLASSES, dtype=torch.float64)
    for c in (c for c in scene.present if scene.hard[c]):
        for q, chance in oracle.negative_class_probs(scene, c, 0.3, active=True).items():
            expected[q] += 60 * chance
    torch.testing.assert_close(diagnostics['negatives_per_class'].double(), expected,
                               rtol=1e-5, atol=1e-9)
    assert loss.present.tolist() == [c in scene.present for c in range(NUM_CLASSES)]
    for c in range(NUM_CLASSES):
        unit = torch.zeros(5).double()
        if c in scene.present:
            unit = oracle.prototype(scene, c) / oracle.prototype(scene, c).norm()
        torch.testing.assert_close(loss.prototypes[c].double(), unit, rtol=0, atol=1e-6)
    for p in scene.present:
        for q in scene.present:
            cosine = float(oracle.cosine(oracle.prototype(scene, p), oracle.prototype(scene, q)))
            assert float(loss.relation[p, q]) == pytest.approx(cosine, abs=1e-5)
    assert not any(t.requires_grad for t in (*diagnostics.values(), loss.relation, loss.present))
    assert not loss.state_dict(), 'nothing of this belongs in a checkpoint'


# --------------------------------------------------------------------------- degenerate input


def degenerate(case):
    """Embeddings (float32), labels and probabilities of one row of the table."""
    generator = torch.Generator().manual_seed(0)
    batch, channels = (1 if case == 'one image' else 2), (1 if case == 'one channel' else 4)
    embeddings = torch.randn(batch, channels, 3, 4, generator=generator)
    labels = torch.randint(3, (batch, 3, 4), generator=generator)
    probs = torch.rand(batch, 3, 3, 4, generator=generator) * 0.9
    if case == 'no valid pixel':
        labels.fill_(255)
    elif case == 'one class':
        labels.fill_(1)
    elif case == 'one class, one pixel':
        labels.fill_(255)
        labels[0, 0, 0] = 2
    elif case == 'no hard pixel':
        probs.fill_(1)
    elif case == 'class with one pixel':
        labels[labels == 2] = 1
        labels[0, 0, 0] = 2
    elif case == 'all-zero embeddings':
        embeddings.zero_()
    elif case == 'zero embedding at one query':
        labels.fill_(1)
        labels[0, 0, 0] = 0
        embeddings[0, :, 0, 0] = 0
    elif case == 'equal embeddings':
        embeddings.fill_(0.5)
    elif case == 'prototypes cancel':
        embeddings[1] = -embeddings[0]
        labels[1] = labels[0]
    elif case == 'one pixel':
        embeddings, probs = (tensor[:1, :, :1, :1] for tensor in (embeddings, probs))
        labels = labels[:1, :1, :1]
    elif case == 'one class known':
        labels.fill_(0)
        probs = probs[:, :1]
    return embeddings, labels, probs


ZERO_CASES = ('no valid pixel', 'one class', 'one class, one pixel', 'no hard pixel', 'one pixel',
              'one class known')
CASES = ZERO_CASES + ('class with one pixel', 'one channel', 'one image', 'all-zero embeddings',
                      'zero embedding at one query', 'equal embeddings', 'prototypes cancel')


@pytest.mark.parametrize('dtype', FLOAT_TYPES)
@pytest.mark.parametrize('case', CASES)
def test_degenerate_input_gives_a_finite_attached_loss(case, dtype):
    embeddings, labels, probs = degenerate(case)
    embeddings = embeddings.to(dtype).requires_grad_()
    value = build_loss(num_queries=6, num_negatives=9)(embeddings, labels, probs.to(dtype))
    assert value.shape == () and value.requires_grad and torch.isfinite(value)
    value.backward()
    assert embeddings.grad.dtype == dtype and embeddings.grad.shape == embeddings.shape
    assert torch.isfinite(embeddings.grad).all()
    if case in ZERO_CASES:
        assert value == 0 and not embeddings.grad.any()
    else:
        assert value > 0


@pytest.mark.parametrize('dtype, scale', [(torch.float32, 1e15), (torch.float32, 1e-15),
                                          (torch.float16, 1e4), (torch.float16, 1e-3),
                                          (torch.bfloat16, 1e15), (torch.bfloat16, 1e-15)])
def test_huge_and_tiny_embeddings(dtype, scale):
    embeddings, labels, probs = make_batch()
    embeddings = (embeddings.clamp(-3, 3) * scale).to(dtype)
    value, grad = loss_and_grad(build_loss(num_queries=8, num_negatives=8), embeddings, labels,
                                probs)
    assert torch.isfinite(value) and torch.isfinite(grad).all()


@pytest.mark.parametrize('scale', (1e-3, 1e4))
def test_loss_does_not_depend_on_scale(scale):
    embeddings, labels, probs = make_batch()
    loss = build_loss(num_queries=8, num_negatives=8)
    value, grad = loss_and_grad(loss, embeddings, labels, probs)
    scaled_value, scaled_grad = loss_and_grad(loss, embeddings * scale, labels, probs)
    torch.testing.assert_close(scaled_value, value)
    torch.testing.assert_close(scaled_grad * scale, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('layout', ('channels_last', 'transposed', 'sliced', 'expanded labels'))
def test_memory_layout_does_not_matter(layout):
    embeddings, labels, probs = make_batch()
    loss = build_loss(num_queries=8, num_negatives=8)
    if layout == 'expanded labels':
        labels = labels[:1].expand(2, -1, -1)
    other, other_labels, other_probs = embeddings, labels, probs
    if layout == 'channels_last':
        other = embeddings.contiguous(memory_format=torch.channels_last)
        other_probs = probs.contiguous(memory_format=torch.channels_last)
    elif layout == 'transposed':
        other = embeddings.transpose(2, 3).contiguous().transpose(2, 3)
        other_labels = labels.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == 'sliced':
        other = torch.nn.functional.pad(embeddings, (1, 1, 1, 1), value=9.)[:, :, 1:-1, 1:-1]
        other_labels = torch.nn.functional.pad(labels, (2, 1), value=1)[..., 2:-1]
    else:
        labels = labels.contiguous()
    value, grad = loss_and_grad(loss, embeddings, labels, probs)
    other_value, other_grad = loss_and_grad(loss, other, other_labels, other_probs)
    torch.testing.assert_close(other_value, value)
    torch.testing.assert_close(other_grad, grad)


@settings(max_examples=60)
@given(st.data())
def test_any_batch_gives_a_finite_loss(data):
    def pick(low, high, label):
        return data.draw(st.integers(low, high), label=label)

    batch, channels, num_classes = pick(1, 2, 'B'), pick(1, 4, 'D'), pick(1, 5, 'C')
    height, width, seed = pick(1, 4, 'h'), pick(1, 4, 'w'), pick(0, 99, 'seed')
    dtype = data.draw(st.sampled_from(FLOAT_TYPES + (torch.float64, )))
    values = st.sampled_from(list(range(num_classes)) + [255, -1])
    size = batch * height * width
    labels = data.draw(st.lists(values, min_size=size, max_size=size), label='labels')
    labels = torch.tensor(labels).view(batch, height, width)
    share = data.draw(st.sampled_from((0., 0.5, 1.)), label='share of certain pixels')
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(batch, num_classes, height, width, generator=generator)
    probs = torch.where(torch.rand(probs.shape, generator=generator) < share, 1., probs)
    embeddings = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
    embeddings.requires_grad_()
    loss = build_loss(num_queries=pick(1, 5, 'Q'), num_negatives=pick(1, 5, 'M'))
    value = loss(embeddings, labels, probs.to(dtype), generator=generator)
    value.backward()
    assert value.requires_grad and value.shape == () and torch.isfinite(value) and value >= 0
    assert torch.isfinite(embeddings.grad).all()
    _, scene = read_scene(embeddings, labels, probs.to(dtype))
    if len(scene.present) < 2 or not any(scene.hard):
        assert value == 0
    else:
        assert value > 0


# --------------------------------------------------------------------------- bounds and options


def test_bounds():
    num_negatives, temperature = 32, 0.5
    loss = build_loss(num_queries=4, num_negatives=num_negatives, temperature=temperature)
    labels = torch.tensor([[[0, 0], [1, 1]]])
    probs = torch.zeros(1, 2, 2, 2)
    apart = torch.tensor([[[[1., 1.], [-1., -1.]]]])
    lowest = math.log(1 + num_negatives * math.exp(-2 / temperature))
    assert float(loss(apart, labels, probs)) == pytest.approx(lowest, rel=1e-5)
    equal = torch.ones(1, 3, 2, 2)
    assert float(loss(equal, labels, probs)) == pytest.approx(math.log(num_negatives + 1), rel=1e-5)
    for seed in range(20):
        any_batch = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
        assert float(loss(any_batch, labels, probs)) >= lowest - 1e-5


def test_defaults_have_the_scale_of_the_paper():
    """512 negatives at temperature 0.5: the loss starts near log 513 = 6.24."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 64, 16, 16, generator=generator)
    labels = torch.randint(4, (2, 16, 16), generator=generator)
    value = build_loss()(embeddings, labels, torch.full((2, 4, 16, 16), 0.25), generator=generator)
    assert float(value) == pytest.approx(math.log(513), abs=0.3)


@pytest.mark.parametrize('name, value', [
    ('num_queries', 0), ('num_queries', -3), ('num_queries', 2.5), ('num_negatives', 0),
    ('num_negatives', -1), ('temperature', 0), ('temperature', -0.5),
    ('temperature', float('nan')), ('strong_threshold', 0), ('strong_threshold', -0.1),
    ('strong_threshold', 1.01), ('strong_threshold', float('nan')), ('loss_weight', -1)])
def test_hyper_parameters_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        build_loss(**{name: value})


def test_unknown_sampler_is_refused():
    with pytest.raises(KeyError, match='NoSuchSampler'):
        build_loss(key_sampler=dict(type='NoSuchSampler'))


@pytest.mark.parametrize('weight', (0., 0.25, 3.))
def test_loss_weight_scales_loss_and_gradient(weight):
    batch = make_batch()
    value, grad = loss_and_grad(build_loss(num_queries=8, num_negatives=8), *batch)
    scaled_value, scaled_grad = loss_and_grad(
        build_loss(num_queries=8, num_negatives=8, loss_weight=weight), *batch)
    torch.testing.assert_close(scaled_value, weight * value)
    torch.testing.assert_close(scaled_grad, weight * grad)


def test_loss_name():
    assert build_loss().loss_name == 'loss_reco'
    assert build_loss(loss_name='loss_contrast').loss_name == 'loss_contrast'


@pytest.mark.parametrize('name, value', [('num_queries', 32), ('num_negatives', 3),
                                         ('temperature', 0.1), ('strong_threshold', 0.5)])
def test_a_schedule_may_change_attributes(name, value):
    """A hook sets the attribute; the next step must equal a loss built with it."""
    batch = make_batch()
    scheduled = build_loss(num_queries=8, num_negatives=8)
    before, _ = loss_and_grad(scheduled, *batch)
    setattr(scheduled, name, value)
    after, _ = loss_and_grad(scheduled, *batch)
    built, _ = loss_and_grad(build_loss(**{**dict(num_queries=8, num_negatives=8), name: value}),
                             *batch)
    assert after == built and after != before


def test_generator_makes_it_reproducible():
    embeddings, labels, probs = make_batch()
    loss = build_loss(num_queries=8, num_negatives=8)
    state = torch.get_rng_state()
    first, again, other = (loss_and_grad(loss, embeddings, labels, probs, seed)
                           for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert first[0] != other[0]
    assert torch.equal(torch.get_rng_state(), state), 'the global generator was used'
    torch.manual_seed(3)
    one = loss(embeddings, labels, probs)
    torch.manual_seed(3)
    assert torch.equal(one, loss(embeddings, labels, probs))


def test_inputs_are_left_alone():
    batch = make_batch()
    copies = [tensor.clone() for tensor in batch]
    loss_and_grad(build_loss(num_queries=8, num_negatives=8), *batch)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(batch, copies, strict=True))


def test_without_gradient():
    embeddings, labels, probs = make_batch()
    loss = build_loss(num_queries=8, num_negatives=8)
    expected, _ = loss_and_grad(loss, embeddings, labels, probs)
    with torch.no_grad():
        value = loss(embeddings, labels, probs, generator=torch.Generator().manual_seed(0))
    assert torch.equal(value, expected)


# --------------------------------------------------------------------------- precision


@pytest.mark.parametrize('dtype', FLOAT_TYPES)
def test_autocast_keeps_dtype_and_value(dtype):
    batch = make_batch()
    loss = build_loss(num_queries=8, num_negatives=8)
    batch = (batch[0].to(dtype), *batch[1:])
    expected, expected_grad = loss_and_grad(loss, *batch)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value, grad = loss_and_grad(loss, *batch)
    assert value.dtype == torch.float32
    assert grad.dtype == dtype and grad.shape == batch[0].shape
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16))
def test_half_precision_embeddings_lose_only_their_own_rounding(dtype):
    """One hard pixel drawn 2,000 times: summing its gradient in half precision would stall."""
    embeddings, labels, probs = make_batch()
    embeddings = embeddings.to(dtype)
    probs[:] = 0.999
    where = (labels == 2).nonzero()[0]
    probs[where[0], 2, where[1], where[2]] = 0.2
    loss = build_loss(num_queries=2000, num_negatives=8)
    expected, expected_grad = loss_and_grad(loss, embeddings.float(), labels, probs)
    value, grad = loss_and_grad(loss, embeddings, labels, probs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad.float(), expected_grad, rtol=0,
                               atol=2 * torch.finfo(dtype).eps * float(expected_grad.abs().max()))


# --------------------------------------------------------------------------- cost


MASKABLE = {'aten::index', 'aten::index_put', 'aten::index_put_'}


class Record(TorchDispatchMode):
    """Names of all operators and the most elements any of their results holds in memory."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func._schema.name)
        if func._schema.name in MASKABLE and any(
                index is not None and index.dtype == torch.bool for index in args[1]):
            self.names.add('aten::nonzero')  # which a mask as an index becomes
        for tensor in tree_flatten((result, args, kwargs))[0]:
            if isinstance(tensor, torch.Tensor):
                if tensor.layout == torch.sparse_csr:
                    tensor = tensor.values()
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.largest = max(self.largest, size)
        return result


@pytest.mark.parametrize('side, channels', [(16, 128), (64, 16)])
def test_memory_does_not_grow_with_pairs_times_channels_or_pixels(side, channels):
    """Few pixels: no [queries, negatives, channels]. Many pixels: no [queries, pixels].

    Not even for one class; nothing is larger than the embeddings or the list of pairs.
    """
    num_queries, num_negatives, num_classes = 32, 64, 4
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, channels, side, side, generator=generator, requires_grad=True)
    labels = torch.randint(num_classes, (2, side, side), generator=generator)
    probs = torch.rand(2, num_classes, side, side, generator=generator)
    loss = build_loss(num_queries=num_queries, num_negatives=num_negatives)
    with Record() as record:
        loss(embeddings, labels, probs).backward()
    needed = max(embeddings.numel(), num_classes * num_queries * num_negatives)
    too_large = (num_queries * num_negatives * channels if side == 16 else
                 num_queries * labels.numel())
    assert record.largest >= embeddings.numel(), 'the record saw nothing'
    assert record.largest <= 1.01 * needed < too_large / 1.5


HOST_SYNCS = {'aten::_local_scalar_dense', 'aten::item', 'aten::nonzero', 'aten::masked_select',
              'aten::_unique2', 'aten::unique_consecutive', 'aten::unique_dim', 'aten::equal',
              'aten::is_nonzero', 'aten::_to_cpu'}


def test_no_operator_waits_for_the_device():
    batch = make_batch()
    batch[0].requires_grad_()
    loss = build_loss(num_queries=8, num_negatives=8)
    with Record() as record:
        loss(*batch).backward()
    assert 'aten::gather' in record.names, 'the record saw nothing'
    assert not record.names & HOST_SYNCS


@pytest.mark.parametrize('wait', [
    lambda values: values.sum().item(),
    lambda values: values[values > 0],
    lambda values: values.mul(2).index_put_((values > 0, ), values),
])
def test_the_record_sees_a_wait(wait):
    with Record() as record:
        wait(torch.ones(2, requires_grad=True))
    assert record.names & HOST_SYNCS


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', FLOAT_TYPES)
@pytest.mark.parametrize('layout', ('small', 'large', 'channels_last'))
def test_cuda_without_synchronisation(dtype, layout, monkeypatch):
    """The same code path, forward and backward, with every hidden wait turned into an error."""
    batch = [tensor.cuda() for tensor in make_batch()]
    if layout != 'small':  # other kernels than for a few pixels, and classes in several parts
        monkeypatch.setattr(mmseg_reco.models.losses.reco_loss, 'NEGATIVES_AT_ONCE', 8 * 8)
        labels = torch.randint(0, batch[2].size(1), (2, 96, 96), device='cuda')
        probs = torch.rand(2, batch[2].size(1), 96, 96, device='cuda').softmax(1)
        batch = [torch.randn(2, 256, 96, 96, device='cuda'), labels, probs]
    if layout == 'channels_last':
        batch[0] = batch[0].contiguous(memory_format=torch.channels_last)
    batch[0] = batch[0].to(dtype).requires_grad_()
    loss = build_loss(num_queries=8, num_negatives=8)
    loss(*batch).backward()  # warm-up: libraries synchronise while they load
    torch.cuda.set_sync_debug_mode('error')
    try:
        value = loss(*batch)
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert torch.isfinite(value) and torch.isfinite(batch[0].grad).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_equals_oracle_for_a_given_draw():
    embeddings, labels, probs = make_batch()
    attached, scene = read_scene(embeddings, labels, probs)
    queries, keys, loss = replay(scene, 8, 16, 0.5)
    loss.query_sampler.pixels = loss.query_sampler.pixels.cuda()
    loss.query_sampler.active = loss.query_sampler.active.cuda()
    loss.key_sampler.pixels = loss.key_sampler.pixels.cuda()
    expected = oracle.loss_of_draw(scene, queries, keys, 0.5)
    expected_grad, = torch.autograd.grad(expected, attached)
    moved = embeddings.cuda().requires_grad_()
    value = loss(moved, labels.cuda(), probs.cuda())
    grad, = torch.autograd.grad(value, moved)
    torch.testing.assert_close(value.cpu().double(), expected.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(grad.cpu().double(), expected_grad, rtol=0,
                               atol=1e-4 * float(expected_grad.abs().max()))
