# Licensed under the Apache License, Version 2.0.
"""What all region losses have in common, each with each of its switches."""
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.registry import MODELS
from oracles import rc2l_oracle as oracle
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_reco.models.losses import RegionLoss
from mmseg_reco.models.regions import RegionPrediction, RegionTarget
from mmseg_reco.models.utils import dist_utils

TYPES = ('RegionMaskContrastiveLoss', 'RegionFeatureContrastiveLoss', 'RegionClassConsistencyLoss',
         'SemanticMaskConsistencyLoss')
RMC, RFC, RCC, SMC = TYPES

#: Config, oracle (loss, or loss and diagnostic) and the student's tensors that the loss reads.
LOSSES = {
    'rmc': (dict(type=RMC), lambda s, t: oracle.rmc(s, t, 0.1), ('masks',)),
    'rmc, warm': (dict(type=RMC, temperature=0.7), lambda s, t: oracle.rmc(s, t, 0.7), ('masks',)),
    **{f'rfc, same={same}, cross={cross}': (
        dict(type=RFC, temperature=0.3, same_class_negatives=same, cross_image_negatives=cross),
        functools.partial(oracle.rfc, temperature=0.3, same_class_negatives=same,
                          cross_image_negatives=cross),
        ('masks', 'features')) for same in (True, False) for cross in (True, False)},
    'rcc': (dict(type=RCC), lambda s, t: oracle.rcc(s, t, 0.1), ('class_logits',)),
    'rcc, soft': (dict(type=RCC, soft=True), lambda s, t: oracle.rcc(s, t, 0.1, soft=True),
                  ('class_logits',)),
    'rcc, equal weights': (dict(type=RCC, no_object_weight=1.), lambda s, t: oracle.rcc(s, t, 1.),
                           ('class_logits',)),
    'smc': (dict(type=SMC), oracle.smc, ('semantic',)),
}
each_loss = pytest.mark.parametrize('name', LOSSES)


def build(name, **kwargs):
    return MODELS.build(dict(LOSSES[name][0], **kwargs))


def expected_of(name, student, teacher):
    """Loss and diagnostic (None where the loss has none) in plain loops."""
    value = LOSSES[name][1](student, teacher)
    return value if isinstance(value, tuple) else (value, None)


def loss_and_grads(loss, student, teacher, autocast=False):
    """Value, and gradient of each of the student's tensors (None where it reads none)."""
    student = RegionPrediction(*(field.detach().clone().requires_grad_() for field in student))
    with torch.autocast(student.masks.device.type, torch.bfloat16, enabled=autocast):
        value = loss(student, teacher)
    assert value.shape == () and value.requires_grad
    grads = torch.autograd.grad(value, student, allow_unused=True)
    return value.detach(), RegionPrediction(*grads)


def assert_same(result, expected, rtol=1e-9):
    """Equal value and gradients."""
    torch.testing.assert_close(result[0], expected[0], rtol=rtol, atol=1e-12)
    for grad, other in zip(result[1], expected[1], strict=True):
        if other is None:
            assert grad is None
        else:
            torch.testing.assert_close(grad, other, rtol=rtol, atol=1e-12)


def take(regions, images):
    """Some images of a batch."""
    return type(regions)(*(field[images] for field in regions))


# --------------------------------------------------------------------------- value and gradient


@each_loss
@pytest.mark.parametrize('seed', range(3))
def test_equals_the_loop(name, seed):
    student, teacher = oracle.random_regions(seed, batch=3, regions=4)
    assert not teacher.exists.all() and teacher.exists.any(), 'the scene should have padding'
    loss = build(name)
    value = loss(student, teacher)
    expected, diagnostic = expected_of(name, student, teacher)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(expected, rel=1e-10)
    if diagnostic is None:
        assert loss.diagnostics == {}
    else:
        assert float(*loss.diagnostics.values()) == pytest.approx(diagnostic, rel=1e-10)


def test_switches_make_a_difference():
    """The comparison above can tell them apart."""
    student, teacher = oracle.random_regions(0, batch=3)
    values = {round(expected_of(name, student, teacher)[0], 6) for name in LOSSES}
    assert len(values) == len(LOSSES)


@each_loss
@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), batch=st.integers(1, 3), queries=st.integers(1, 5),
       regions=st.integers(0, 5), classes=st.integers(1, 4), channels=st.integers(2, 4),
       height=st.integers(1, 4), width=st.integers(1, 4),
       valid_share=st.sampled_from((0., 0.5, 1.)), exists_share=st.sampled_from((0., 0.5, 1.)))
def test_equals_the_loop_for_any_shape(name, seed, batch, queries, regions, classes, channels,
                                       height, width, valid_share, exists_share):
    student, teacher = oracle.random_regions(
        seed, batch, queries, min(regions, queries), classes, channels, (height, width),
        valid_share, exists_share)
    value, grads = loss_and_grads(build(name), student, teacher)
    assert float(value) == pytest.approx(expected_of(name, student, teacher)[0], rel=1e-9,
                                         abs=1e-12)
    for field in LOSSES[name][2]:
        assert torch.isfinite(getattr(grads, field)).all()


@each_loss
def test_gradient_is_the_finite_difference(name):
    student, teacher = oracle.random_regions(1, channels=2, size=(2, 3))
    reads = LOSSES[name][2]
    loss = build(name, loss_weight=0.7)

    def value_of(*tensors):
        return loss(student._replace(**dict(zip(reads, tensors, strict=True))), teacher)

    inputs = [getattr(student, field).clone().requires_grad_() for field in reads]
    assert torch.autograd.gradcheck(value_of, inputs)
    grads = torch.autograd.grad(value_of(*inputs), inputs)
    assert all(grad.any() for grad in grads)


@each_loss
def test_weight_scales(name):
    student, teacher = oracle.random_regions()
    whole, half = (build(name, loss_weight=weight)(student, teacher) for weight in (1., 0.5))
    assert float(half) == pytest.approx(float(whole) / 2)
    assert build(name, loss_weight=0)(student, teacher) == 0


@each_loss
def test_reads_what_it_says_and_teaches_no_teacher(name):
    student, teacher = oracle.random_regions()
    learning = RegionTarget(*(field.requires_grad_() if field.is_floating_point() else field
                              for field in teacher))
    loss = build(name)
    student = RegionPrediction(*(field.requires_grad_() for field in student))
    loss(student, learning).backward()
    assert all(field.grad is None for field in learning)
    for field in RegionPrediction._fields:
        assert (getattr(student, field).grad is not None) == (field in LOSSES[name][2])
    assert not any(value.requires_grad for value in loss.diagnostics.values())
    assert isinstance(loss, RegionLoss) and not loss.state_dict()


# --------------------------------------------------------------------------- what must not matter


@each_loss
def test_padding_does_not_matter(name):
    """Neither that there is some, nor what it holds."""
    student, teacher = oracle.random_regions(2)
    padding, pixels = ~teacher.exists, padding_pixels(teacher)
    assert padding.any()
    expected = loss_and_grads(build(name), student, teacher)
    garbage = teacher._replace(
        masks=teacher.masks.masked_fill(pixels, math.nan),
        labels=teacher.labels.masked_fill(padding, 255),
        match=teacher.match.masked_fill(padding, -10**6),
        class_probs=teacher.class_probs.masked_fill(padding[:, :, None], math.inf))
    assert_same(loss_and_grads(build(name), student, garbage), expected, rtol=0)
    more = RegionTarget(*(torch.cat([field, field], 1) if key in PER_REGION else field
                          for key, field in garbage._asdict().items()))
    more.exists[:, teacher.exists.size(1):] = False
    assert_same(loss_and_grads(build(name), student, more), expected)


PER_REGION = ('masks', 'labels', 'exists', 'match', 'class_probs')


def padding_pixels(teacher):
    """Where the masks of padding are. Shape (B, T, h, w), bool."""
    return ~teacher.exists[:, :, None, None].expand_as(teacher.masks)


@each_loss
def test_invalid_pixels_do_not_matter(name):
    student, teacher = oracle.random_regions(3)
    invalid = ~teacher.valid
    expected = loss_and_grads(build(name), student, teacher)
    assert all(grad is None or not grad[invalid[:, None].expand_as(grad)].any()
               for grad in expected[1][:3])
    other_student = student._replace(
        masks=student.masks.masked_fill(invalid[:, None], math.nan),
        semantic=student.semantic.masked_fill(invalid[:, None], math.nan),
        features=student.features.masked_fill(invalid[:, None], -1e3))
    other_teacher = teacher._replace(
        masks=teacher.masks.masked_fill(invalid[:, None], math.nan),
        features=teacher.features.masked_fill(invalid[:, None], 1e3),
        semantic=teacher.semantic.masked_fill(invalid, 255))
    assert_same(loss_and_grads(build(name), other_student, other_teacher), expected)


@each_loss
def test_order_of_regions_queries_and_images_does_not_matter(name):
    student, teacher = oracle.random_regions(4, batch=3, regions=4)
    generator = torch.Generator().manual_seed(0)
    images, regions, queries = (torch.randperm(n, generator=generator) for n in (3, 4, 5))
    value, grads = loss_and_grads(build(name), student, teacher)

    moved_teacher = teacher._asdict()
    for field in PER_REGION:
        moved_teacher[field] = moved_teacher[field][:, regions]
    moved_teacher['match'] = queries.argsort()[moved_teacher['match']]

    def move(prediction):
        """Of masks and class logits, the queries too."""
        prediction = prediction._asdict()
        for field in ('masks', 'class_logits'):
            if prediction[field] is not None:
                prediction[field] = prediction[field][:, queries]
        return RegionPrediction(*(field if field is None else field[images]
                                  for field in prediction.values()))

    result = loss_and_grads(build(name), move(student),
                            take(RegionTarget(**moved_teacher), images))
    assert_same(result, (value, move(grads)))


@each_loss
def test_memory_layout_does_not_matter(name):
    student, teacher = oracle.random_regions(5)
    expected = loss_and_grads(build(name), student, teacher)

    def transposed(field):
        return field.transpose(-1, -2).contiguous().transpose(-1, -2)

    result = loss_and_grads(build(name), RegionPrediction(*map(transposed, student)),
                            RegionTarget(*map(transposed, teacher)))
    assert_same(result, expected)


# --------------------------------------------------------------------------- degenerate input


def degenerate(case):
    """Student and teacher of one row of the table."""
    sizes = {'one query': dict(queries=1, regions=1), 'as many regions as queries':
             dict(queries=4, regions=4), 'one image': dict(batch=1), 'one pixel': dict(size=(1, 1)),
             'one class': dict(classes=1), 'room for no region': dict(regions=0)}
    student, teacher = oracle.random_regions(6, exists_share=1, **sizes.get(case, {}))
    if case == 'no region':
        teacher = teacher._replace(exists=torch.zeros_like(teacher.exists))
    elif case == 'no region in one image':
        teacher.exists[0] = False
    elif case == 'one region':
        teacher.exists[:] = False
        teacher.exists[1, 2] = True
    elif case == 'no class in common':
        student.semantic[:, :2] = 0
        teacher = teacher._replace(semantic=teacher.semantic % 2)
        student.class_logits[:, :, :2] = -30
        teacher = teacher._replace(labels=teacher.labels % 2)
    elif case == 'empty student masks':
        student.masks.zero_()
    elif case == 'empty teacher masks':
        teacher.masks.zero_()
    elif case == 'all ignored':
        teacher = teacher._replace(valid=torch.zeros_like(teacher.valid),
                                   masks=torch.zeros_like(teacher.masks))
    elif case == 'zero features':
        student.features.zero_(), teacher.features.zero_()
    elif case == 'same mask everywhere':
        student.masks.fill_(1), teacher.masks.fill_(1)
    return student, teacher


CASES = ('no region', 'no region in one image', 'one region', 'no class in common',
         'empty student masks', 'empty teacher masks', 'all ignored', 'zero features',
         'same mask everywhere', 'one query', 'as many regions as queries', 'one image',
         'one pixel', 'one class', 'room for no region')
#: Cases in which a loss has nothing to say.
ZERO = {RMC: ('no region', 'room for no region', 'one query'),
        RFC: ('no region', 'room for no region'), RCC: ('no region', 'room for no region'),
        SMC: ('all ignored',)}


@each_loss
@pytest.mark.parametrize('dtype', (torch.float64, torch.float32, torch.float16, torch.bfloat16))
@pytest.mark.parametrize('case', CASES)
def test_degenerate_input_gives_a_finite_attached_loss(name, case, dtype):
    student, teacher = degenerate(case)
    student = RegionPrediction(*(field.to(dtype) for field in student))
    value, grads = loss_and_grads(build(name), student, teacher)
    assert value.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(value)
    for field in LOSSES[name][2]:
        grad = getattr(grads, field)
        assert grad.dtype == dtype and torch.isfinite(grad).all()
        if case in ZERO[LOSSES[name][0]['type']]:
            assert value == 0 and not grad.any()
    student = RegionPrediction(*(field.double() for field in student))
    expected = expected_of(name, student, teacher)[0]
    assert float(value) == pytest.approx(expected, rel=1e-9 if dtype == torch.float64 else 1e-4,
                                         abs=1e-5)


@each_loss
def test_image_without_a_region_does_not_count(name):
    """The semantic loss has no regions: there, an image without valid pixels."""
    student, teacher = oracle.random_regions(7, batch=3, exists_share=1)
    teacher.exists[1] = False
    teacher.valid[1] = False
    both = torch.tensor([0, 2])
    value, grads = loss_and_grads(build(name), student, teacher)
    expected, expected_grads = loss_and_grads(build(name), take(student, both), take(teacher, both))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for field in LOSSES[name][2]:
        assert not getattr(grads, field)[1].any()
        torch.testing.assert_close(getattr(grads, field)[both], getattr(expected_grads, field))


# --------------------------------------------------------------------------- precision


@each_loss
@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16))
def test_half_precision_is_computed_in_float32(name, dtype):
    """Also within autocast: only the input is rounded."""
    student, teacher = (type(regions)(*(field.to(dtype) if field.is_floating_point() else field
                                        for field in regions))
                        for regions in oracle.random_regions(8, size=(40, 40)))
    upcast = [type(regions)(*(field.float() if field.is_floating_point() else field
                              for field in regions)) for regions in (student, teacher)]
    loss = build(name)
    expected, expected_grads = loss_and_grads(loss, *upcast)
    for autocast in (False, True):
        value, grads = loss_and_grads(loss, student, teacher, autocast)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
        for field in LOSSES[name][2]:
            grad, other = getattr(grads, field), getattr(expected_grads, field)
            torch.testing.assert_close(grad.float(), other, rtol=0,
                                       atol=2 * torch.finfo(dtype).eps * float(other.abs().max()))


@each_loss
def test_large_half_precision_maps_do_not_overflow(name):
    """Sums over 90,000 pixels are larger than float16 can hold; so are exponentials of logits."""
    student, teacher = oracle.random_regions(9, batch=1, size=(300, 300), valid_share=1.,
                                             exists_share=1., dtype=torch.float16)
    student = student._replace(masks=student.masks * 0 + 1, class_logits=1e4 * student.class_logits)
    value, grads = loss_and_grads(build(name), student, teacher)
    assert torch.isfinite(value)
    assert all(torch.isfinite(getattr(grads, field)).all() for field in LOSSES[name][2])


@each_loss
def test_low_temperature_and_sure_logits_do_not_overflow(name):
    student, teacher = oracle.random_regions(10, dtype=torch.float32)
    temperature = dict(temperature=1e-4) if 'temperature' in vars(build(name)) else {}
    student = student._replace(class_logits=1e4 * student.class_logits)
    value, grads = loss_and_grads(build(name, **temperature), student, teacher)
    assert torch.isfinite(value)
    assert all(torch.isfinite(getattr(grads, field)).all() for field in LOSSES[name][2])


# --------------------------------------------------------------------------- cost and processes


class Operators(TorchDispatchMode):
    """Names of all operators in the order in which they run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


HOST_SYNCS = {'aten::_local_scalar_dense', 'aten::item', 'aten::nonzero', 'aten::masked_select',
              'aten::_unique2', 'aten::unique_dim', 'aten::equal', 'aten::is_nonzero',
              'aten::_to_cpu', 'aten::index_put_', 'aten::index'}


@each_loss
def test_no_wait_for_the_device_and_no_loop(name):
    """As many operators for many regions, classes and images as for few."""
    counts = []
    for sizes in (dict(), dict(batch=4, queries=9, regions=7, classes=6)):
        student, teacher = oracle.random_regions(0, **sizes)
        with Operators() as operators:
            loss_and_grads(build(name), student, teacher)
        counts.append(len(operators.names))
        assert not set(operators.names) & HOST_SYNCS
    assert counts[0] == counts[1] > 20


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@each_loss
@pytest.mark.parametrize('dtype', (torch.float64, torch.float32, torch.float16, torch.bfloat16))
def test_cuda_without_synchronisation(name, dtype):
    student, teacher = oracle.random_regions(dtype=dtype)
    expected = expected_of(name, student, teacher)[0]
    student, teacher = (type(regions)(*(field.cuda() for field in regions))
                        for regions in (student, teacher))
    loss_and_grads(build(name), student, teacher)  # warm-up: libraries synchronise while they load
    torch.cuda.set_sync_debug_mode('error')
    try:
        value, grads = loss_and_grads(build(name), student, teacher)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert all(torch.isfinite(getattr(grads, field)).all() for field in LOSSES[name][2])


@pytest.mark.parametrize('name', [name for name in LOSSES if 'cross=True' not in name])
def test_two_processes_average_as_one(name, monkeypatch):
    """Images with few regions weigh as much as in one process; one rank may have none at all.

    The ranks run one after the other: what each of them sums is kept, and handed to the other in a
    second round.
    """
    student, teacher = oracle.random_regions(11, batch=4)
    teacher.exists[2:] = False
    teacher.exists[3, 0] = True
    teacher.valid[3] = False
    expected = build(name)(student, teacher)
    ranks = [(take(regions_s, half), take(regions_t, half))
             for regions_s, regions_t in [(student, teacher)]
             for half in (slice(0, 2), slice(2, 4))]
    sums, others = [], [torch.zeros(()), torch.zeros(())]

    def all_reduce(values):
        sums.append(values.clone())
        values += others[len(sums) - 1].to(values.dtype)

    monkeypatch.setattr(dist_utils, 'all_reduce', all_reduce)
    monkeypatch.setattr(dist_utils, 'get_world_size', lambda: 2)
    for _ in range(2):
        sums.clear()
        values = [build(name)(*rank) for rank in ranks]
        others = sums[::-1]
    assert len(sums) == 2, 'each rank takes part once'
    assert float(sum(values) / 2) == pytest.approx(float(expected), rel=1e-6)


# --------------------------------------------------------------------------- arguments


@pytest.mark.parametrize('loss_type', TYPES)
@pytest.mark.parametrize('arguments, message', [
    (dict(loss_weight=-0.1), 'loss_weight must be >= 0'),
    (dict(loss_weight=math.nan), 'loss_weight must be >= 0'),
    (dict(loss_name='rmc'), 'loss_name must contain "loss"'),
])
def test_wrong_arguments_are_refused(loss_type, arguments, message):
    with pytest.raises(ValueError, match=f'{loss_type}: {message}'):
        MODELS.build(dict(type=loss_type, **arguments))


@pytest.mark.parametrize('loss_type', (RMC, RFC))
@pytest.mark.parametrize('temperature', (0, -1., math.nan))
def test_temperature_is_positive(loss_type, temperature):
    with pytest.raises(ValueError, match=f'{loss_type}: temperature must be > 0'):
        MODELS.build(dict(type=loss_type, temperature=temperature))


def test_names_in_the_log():
    names = [MODELS.build(dict(type=loss_type)).loss_name for loss_type in TYPES]
    assert names == ['loss_rmc', 'loss_rfc', 'loss_rcc', 'loss_smc']
