# Licensed under the Apache License, Version 2.0.
"""Degenerate and hostile batches: finite losses and gradients, or an error, but no wrong number."""
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.registry import MODELS, TASK_UTILS
from tiny_segmentor import NUM_CLASSES, make_batch, make_labels, make_sample, segmentor_config

from mmseg_reco.datasets.samplers import multi_source_sampler
from mmseg_reco.engine.hooks import MeanTeacherHook
from mmseg_reco.models import PseudoLabelLoss, ReCoLoss
from mmseg_reco.models.samplers import build_pixel_index

RECO = dict(type='ReCoLoss', num_queries=8, num_negatives=16)
FLOAT_TYPES = torch.float32, torch.float64, torch.float16, torch.bfloat16


def build(norm='BN', train_cfg=None, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='MeanTeacherReCo', segmentor=segmentor_config(norm),
        loss_unsup=dict(type='PseudoLabelLoss', strong_threshold=0.25),
        semi_train_cfg=dict(weak_threshold=0.25, **(train_cfg or {})),
        **{'losses': [RECO], **kwargs}))
    model.init_weights()
    return model.train()


def batch_of(size, labeled=1, unlabeled=1):
    """Random images of any size, with labels where they are labelled."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    blocks = height // 8 * 8 + 8, width // 8 * 8 + 8

    def samples(count, ignored):
        return [make_sample(make_labels(seed, ignored, blocks)[:height, :width], size)
                for seed in range(count)]

    inputs = {name: torch.randn(count, 3, *size, generator=generator)
              for name, count in (('sup', labeled), ('unsup', unlabeled))}
    return inputs, dict(sup=samples(labeled, 0.3), unsup=samples(unlabeled, 1.1))


def fill_labels(value):
    def edit(inputs, samples):
        for sample in [*samples['sup'], *samples['unsup']]:
            sample.gt_sem_seg.data.fill_(value)
    return edit


def fill_images(value):
    def edit(inputs, samples):
        for images in inputs.values():
            images.fill_(value)
    return edit


def one_pixel(value, branch='sup'):
    def edit(inputs, samples):
        inputs[branch][0, 0, 3, 3] = value
    return edit


FINITE = {
    'all ignored': fill_labels(255),
    'one class': fill_labels(1),
    'the last class alone': fill_labels(NUM_CLASSES - 1),
    'constant images': fill_images(0.3),
    'black images': fill_images(0.),
    'a pixel of 1e30': one_pixel(1e30),
    'an unlabelled pixel of -1e30': one_pixel(-1e30, 'unsup'),
}


def take_step(model, inputs, samples):
    loss, log = model.parse_losses(model.loss(inputs, samples))
    loss.backward()
    return log, all(weight.grad.isfinite().all() for weight in model.student.parameters())


@pytest.mark.parametrize('case', FINITE)
@pytest.mark.parametrize('given', [False, True], ids=['semi', 'partial'])
def test_finite(case, given):
    model, (inputs, samples) = build(), make_batch(given=given)
    FINITE[case](inputs, samples)
    log, finite = take_step(model, inputs, samples)
    assert finite and all(math.isfinite(value) for value in log.values())
    MeanTeacherHook().after_train_iter(SimpleNamespace(model=model, iter=7), 7)
    assert all(buffer.isfinite().all() for buffer in model.teacher.buffers())


@pytest.mark.parametrize('size', [(4, 4), (5, 4), (33, 41), (31, 17), (7, 64)], ids=str)
@pytest.mark.parametrize('joint', [True, False])
@pytest.mark.parametrize('own', [True, False])
def test_odd_sizes_and_batches_of_one(size, joint, own):
    """4x4 pixels give a map of 1x1: BN cannot learn from one number, and says so."""
    model = build(train_cfg=dict(joint_forward=joint, teacher_batch_stats=own))
    if size == (4, 4) and (own or not joint):
        words = 'larger batch_size' if own else 'Expected more than 1 value per channel'
        with pytest.raises(ValueError, match=words):
            take_step(model, *batch_of(size))
    else:
        log, finite = take_step(model, *batch_of(size))
        assert finite and all(math.isfinite(value) for value in log.values())


@pytest.mark.parametrize('branch', ['sup', 'unsup'])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_an_image_that_is_not_finite_shows_in_the_losses(value, branch):
    """No crash and no finite number that hides it: NumericalWatchHook then names the images."""
    model, (inputs, samples) = build(), make_batch()
    one_pixel(value, branch)(inputs, samples)
    log, _ = take_step(model, inputs, samples)
    assert not math.isfinite(log['loss'])


@pytest.mark.parametrize('label', [NUM_CLASSES, 254])
def test_a_label_that_is_no_class_is_never_trained_on(label):
    """The loader names the image (test_loading.py); what comes past it is refused here."""
    model, (inputs, samples) = build(), make_batch()
    samples['sup'][0].gt_sem_seg.data[0, 3, 3] = label
    with pytest.raises(IndexError, match=f'Target {label} is out of bounds'):
        model.loss(inputs, samples)


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='torch 2.3 scales on CPU first')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_overflow_skips_the_step(dtype):
    """As mixed precision has it: gradients that are not finite leave the weights alone."""
    model, (inputs, samples) = build(), make_batch()
    weights = list(model.student.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.1)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.**14)
    for overflow in (True, False):
        before = [weight.detach().clone() for weight in weights]
        if overflow:  # beyond float16 (65504), and beyond bfloat16 once it is squared
            inputs['sup'][0] *= 1e25 if dtype == torch.bfloat16 else 1e6
        else:
            inputs, samples = make_batch()
        optimizer.zero_grad()
        with torch.autocast('cpu', dtype=dtype):
            loss, _ = model.parse_losses(model.loss(inputs, samples))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        same = all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))
        assert all(weight.isfinite().all() for weight in weights)
        if dtype == torch.float16:
            assert same == overflow == (not math.isfinite(loss))


# --------------------------------------------------------------------------- hypothesis


@settings(max_examples=40)
@given(st.data())
def test_any_batch_through_the_segmentor(data):
    size = data.draw(st.tuples(st.integers(8, 40), st.integers(8, 40)), label='size')
    labeled, unlabeled = (data.draw(st.integers(1, 3), label=name) for name in ('B', 'Bu'))
    mix = data.draw(st.sampled_from([None, 'ClassMix', 'CutMix', 'CutOut']), label='mix')
    own = data.draw(st.sampled_from([None, 0.2]), label='self_label_threshold')
    joint = data.draw(st.booleans(), label='joint')
    model = build(
        data.draw(st.sampled_from(['BN', 'GN']), label='norm'), mix=mix and dict(type=mix),
        train_cfg=dict(joint_forward=joint, self_label_threshold=own))
    inputs, samples = batch_of(size, labeled, unlabeled)
    labels = st.sampled_from(['as they are', 255, *range(NUM_CLASSES)])
    values = st.sampled_from(['as they are', 0., 2.5, -1e4])
    for branch in ('sup', 'unsup'):
        for image, sample in zip(inputs[branch], samples[branch], strict=True):
            label, value = data.draw(labels, label='label'), data.draw(values, label='image')
            if label != 'as they are':
                sample.gt_sem_seg.data.fill_(label)
            if value != 'as they are':
                image.fill_(value)
    log, finite = take_step(model, inputs, samples)
    assert finite and all(math.isfinite(value) for value in log.values())
    assert all(value >= 0 for value in log.values())


def draw_labels(data, shape, num_classes):
    values = st.sampled_from([*range(num_classes), 255])
    size = math.prod(shape)
    pixels = data.draw(st.lists(values, min_size=size, max_size=size), label='labels')
    return torch.tensor(pixels).view(shape)


def plain_loss(logits, labels, confidence, threshold, average):
    """Loop over images and pixels in double precision."""
    total, count = 0., 0
    for image, truth, certainty in zip(logits.double(), labels, confidence, strict=True):
        valid = truth != 255
        share = float(((certainty >= threshold) & valid).sum()) / max(int(valid.sum()), 1)
        for row, column in valid.nonzero().tolist():
            scores = image[:, row, column]
            term = share * float(scores.logsumexp(0) - scores[truth[row, column]])
            total += term
            count += average == 'valid' or term > 0
    return total / max(count, 1)


@settings(max_examples=100)
@given(st.data())
def test_pseudo_label_loss_on_any_batch(data):
    shape = data.draw(st.tuples(*[st.integers(1, 3)] * 3), label='shape')
    num_classes = data.draw(st.integers(1, 5), label='C')
    labels = draw_labels(data, shape, num_classes)
    dtype = data.draw(st.sampled_from(FLOAT_TYPES), label='dtype')
    scale = data.draw(st.sampled_from([1., 1e-3, 1e4]), label='scale')
    threshold = data.draw(st.sampled_from([0., 0.5, 0.97, 1.]), label='threshold')
    average = data.draw(st.sampled_from(['valid', 'positive']), label='average')
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), label='seed'))
    logits = torch.randn(shape[0], num_classes, *shape[1:], generator=generator) * scale
    logits = logits.to(dtype).requires_grad_()
    confidence = torch.rand(shape, generator=generator)
    value = PseudoLabelLoss(threshold, average)(logits, labels, confidence)
    value.backward()
    assert value.shape == () and value.isfinite() and logits.grad.isfinite().all()
    if average == 'valid':  # a loss of 1e-9 is 0 in single precision, and is not counted
        expected = plain_loss(logits.detach(), labels, confidence, threshold, average)
        assert float(value.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if (labels == 255).all():
        assert value == 0 and not logits.grad.any()


@pytest.mark.parametrize('sampler', ['ActiveKeySampler', 'RandomKeySampler'])
@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_a_representation_that_overflowed_gives_no_index_error(value, sampler):
    """One pixel, as in mixed precision: on a GPU, the index error would end the process."""
    labels = torch.arange(12).view(1, 3, 4) % 3
    embeddings = torch.randn(1, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    embeddings[0, :, 0, 0] = value
    loss = ReCoLoss(4, 5, key_sampler=dict(type=sampler))
    for _ in range(10):  # the sampler is random
        loss(embeddings.requires_grad_(), labels, torch.full((1, 3, 3, 4), 0.5)).backward()


@settings(max_examples=60)
@given(st.data())
def test_reco_loss_survives_numbers_that_are_not(data):
    """Not an index error, which on a GPU ends the process without a word about the cause."""
    num_classes = data.draw(st.integers(1, 4), label='C')
    labels = draw_labels(data, (1, 3, 4), num_classes)
    dtype = data.draw(st.sampled_from(FLOAT_TYPES), label='dtype')
    embeddings = torch.randn(1, 3, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    probs = torch.full((1, num_classes, 3, 4), 0.5)
    for tensor in (embeddings, probs):
        for pixel in data.draw(st.sets(st.integers(0, 11), max_size=3), label='bad pixels'):
            tensor[0, :, pixel // 4, pixel % 4] = data.draw(
                st.sampled_from([math.nan, math.inf, -math.inf, 65504.]), label='value')
    sampler = data.draw(st.sampled_from(['ActiveKeySampler', 'RandomKeySampler']))
    loss = ReCoLoss(4, 5, key_sampler=dict(type=sampler))
    value = loss(embeddings.requires_grad_(), labels, probs)
    value.backward()
    assert value.shape == () and embeddings.grad.shape == embeddings.shape
    if len(set(labels.flatten().tolist()) - {255}) < 2 and embeddings.isfinite().all():
        assert value == 0


@settings(max_examples=60)
@given(st.data())
def test_samplers_draw_from_where_they_should(data):
    num_classes = data.draw(st.integers(1, 5), label='C')
    labels = draw_labels(data, (data.draw(st.integers(1, 30), label='N'), ), num_classes)
    flags = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    hard = torch.tensor(flags)
    index = build_pixel_index(labels, hard, num_classes)
    present = [c for c in range(num_classes) if (labels == c).any()]

    name = data.draw(st.sampled_from(['Active', 'Random']), label='sampler')
    pixels, active = TASK_UTILS.build(dict(type=f'{name}QuerySampler')).sample(index, 7)
    for c in range(num_classes):
        pool = {i for i in range(len(labels)) if labels[i] == c and (flags[i] or name == 'Random')}
        assert bool(active[c]) == bool(pool)
        assert not pool or set(pixels[c].tolist()) <= pool

    sampler = TASK_UTILS.build(dict(type=f'{name}KeySampler'))
    relation = torch.rand(num_classes, num_classes)
    probs = sampler.class_probs(relation, index.count > 0, 0.5)
    keys = sampler.sample(index, probs, 3, 4)
    assert keys.shape == (num_classes, 3, 4)
    for c in present:
        if len(present) > 1:
            assert set(labels[keys[c]].flatten().tolist()) <= set(present) - {c}


@settings(max_examples=60)
@given(st.data())
def test_multi_source_sampler_of_any_sizes(data):
    """All ranks together go through each source without gaps, in the ratio, batch by batch."""
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3), label='sizes')
    ratio = data.draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)))
    world_size = data.draw(st.integers(1, 4), label='ranks')
    batch_size = sum(ratio) * data.draw(st.integers(1, 2), label='times')
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]

    class Sources:
        datasets = [range(size) for size in sizes]
        cumulative_sizes = starts[1:]

    batches = 4
    drawn = []
    for rank in range(world_size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multi_source_sampler, 'get_dist_info',
                          lambda rank=rank: (rank, world_size))
            iterator = iter(multi_source_sampler.MultiSourceSampler(
                Sources(), batch_size, ratio, seed=3))
        drawn.append(torch.tensor([next(iterator) for _ in range(batches * batch_size)])
                     .view(batches, batch_size))
    first = 0
    for source, size in enumerate(sizes):
        count = batch_size * ratio[source] // sum(ratio)
        mine = torch.stack([batch[:, first:first + count].flatten() for batch in drawn])
        first += count
        assert ((mine >= starts[source]) & (mine < starts[source + 1])).all()
        sequence = mine.t().flatten()  # the ranks take turns
        for start in range(0, len(sequence) - size + 1, size):
            assert len(set(sequence[start:start + size].tolist())) == size
