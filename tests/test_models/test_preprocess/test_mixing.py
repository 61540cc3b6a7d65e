# Licensed under the Apache License, Version 2.0.
"""Mixing against plain loops; what is drawn at random against its distribution."""

from itertools import combinations

import pytest
import torch
from mmseg.registry import TASK_UTILS

from mmseg_reco.models.preprocess import ClassMix, CutMix, CutOut, PseudoBatch, RandomCutMix
from mmseg_reco.models.preprocess.mixing import (
    boxes_of_area,
    class_mix,
    cut_mix,
    cut_out,
    random_boxes,
    random_half_of_classes,
)

BOXES = [(slice(0, 5), slice(3, 13)), (slice(2, 9), slice(0, 8)), (slice(1, 7), slice(5, 12))]


def make_batch(num=3, size=(9, 13), classes=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num, 3, *size, generator=generator).to(dtype)
    labels = torch.randint(0, classes, (num, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    confidence = torch.rand(num, *size, generator=generator).to(dtype)
    return PseudoBatch(images, labels, confidence).track_origin()


def assert_pixels(out, expected):
    """``expected(i, y, x)`` is the (image, label, confidence) of a pixel."""
    num, height, width = out.labels.shape
    for i in range(num):
        for y in range(height):
            for x in range(width):
                image, label, confidence = expected(i, y, x)
                assert out.images[i, :, y, x].tolist() == image
                assert out.labels[i, y, x].item() == label
                assert out.confidence[i, y, x].item() == confidence


def pixel(batch, i, y, x):
    return (
        batch.images[i, :, y, x].tolist(),
        batch.labels[i, y, x].item(),
        batch.confidence[i, y, x].item(),
    )


def inside(box, y, x):
    return box[0].start <= y < box[0].stop and box[1].start <= x < box[1].stop


def test_cut_out_removes_the_box():
    batch = make_batch()
    removed = ([0.0, 0.0, 0.0], 255, 0.0)
    assert_pixels(
        cut_out(batch, BOXES),
        lambda i, y, x: removed if inside(BOXES[i], y, x) else pixel(batch, i, y, x),
    )


def test_cut_mix_fills_the_box_from_the_next_image():
    batch = make_batch()
    assert_pixels(
        cut_mix(batch, BOXES),
        lambda i, y, x: pixel(batch, (i + inside(BOXES[i], y, x)) % 3, y, x),
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('label_dtype', [torch.int64, torch.uint8])
def test_class_mix_keeps_the_chosen_classes(dtype, label_dtype):
    batch = make_batch(dtype=dtype)
    batch = batch._replace(labels=batch.labels.to(label_dtype))
    chosen = [{0, 3}, {4}, set()]
    kept = torch.zeros(3, 256, dtype=torch.bool)
    for i, classes in enumerate(chosen):
        kept[i, list(classes)] = True
    out = class_mix(batch, kept)
    assert [x.dtype for x in out[:3]] == [dtype, label_dtype, dtype]
    assert_pixels(
        out,
        lambda i, y, x: pixel(
            batch, i if batch.labels[i, y, x].item() in chosen[i] else (i + 1) % 3, y, x
        ),
    )


@pytest.mark.parametrize('size', [(321, 321), (360, 480), (11, 30), (7, 5), (2, 1), (1, 1)])
def test_boxes_have_half_the_area_and_lie_inside(size):
    height, width = size
    boxes = random_boxes(500, size, torch.Generator().manual_seed(0))
    widths = torch.tensor([b.stop - b.start for _, b in boxes]).float()
    for rows, columns in boxes:
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        box_height, box_width = rows.stop - rows.start, columns.stop - columns.start
        assert abs(box_height * box_width - height * width / 2) <= box_width / 2
        assert box_width >= width // 2
    if width > 100:
        assert abs(widths.mean() / width - 0.75) < 0.03
        assert abs(widths.std() / width - 0.5 / 12**0.5) < 0.02
        tops = torch.tensor(
            [r.start / (height - (r.stop - r.start)) for r, _ in boxes if r.stop - r.start < height]
        )
        assert abs(tops.mean() - 0.5) < 0.06 and tops.min() < 0.02 and tops.max() > 0.98


@pytest.mark.parametrize('size', [(321, 321), (360, 480), (7, 5), (1, 1)])
@pytest.mark.parametrize('area', [(0.02, 0.4), (1, 1)])
def test_boxes_have_the_area_and_shape_they_should(size, area):
    boxes = boxes_of_area(500, size, area, torch.Generator().manual_seed(0))
    sides = torch.tensor([[rows.stop - rows.start, columns.stop - columns.start]
                          for rows, columns in boxes])
    assert all(0 <= box[axis].start < box[axis].stop <= size[axis]
               for box in boxes for axis in (0, 1))
    if area == (1, 1):
        assert (sides == torch.tensor(size)).all()
    elif size[0] > 100:
        shares = sides / torch.tensor(size)
        areas, ratios = shares.prod(1), shares[:, 0] / shares[:, 1]
        assert abs(areas.mean() - 0.21) < 0.02 and abs(areas.std() - 0.38 / 12**0.5) < 0.01
        assert ratios.min() > 0.28 and ratios.max() < 3.5 and ratios.max() > 3
        tops = torch.tensor([rows.start / (size[0] - (rows.stop - rows.start))
                             for rows, _ in boxes if rows.stop - rows.start < size[0]])
        assert abs(tops.mean() - 0.5) < 0.06


@pytest.mark.parametrize('area', [None, (0.02, 0.4)])
def test_boxes_lie_anywhere_along_both_axes(area):
    """Uniformly, and independently of each other and of the width."""
    size, generator = (100, 140), torch.Generator().manual_seed(0)
    boxes = (random_boxes(3000, size, generator) if area is None else
             boxes_of_area(3000, size, area, generator))
    starts = torch.tensor([[side.start for side in box] for box in boxes])
    sides = torch.tensor([[side.stop for side in box] for box in boxes]) - starts
    room = torch.tensor(size) - sides
    free = (room > 15).all(1)
    places = starts[free] / room[free]
    assert (places.amin(0) == 0).all() and (places.amax(0) == 1).all()
    assert ((places.mean(0) - 0.5).abs() < 0.03).all()
    drawn = torch.cat([places, sides[free, 1:]], 1)
    assert (torch.corrcoef(drawn.T) - torch.eye(3)).abs().max() < 0.1


@pytest.mark.parametrize('prob', [0., 0.5, 1.])
def test_random_cut_mix_mixes_some_images_with_the_next(prob):
    batch = make_batch(200)
    out = RandomCutMix(prob, area=(0.3, 0.4))(batch, torch.Generator().manual_seed(0))
    size = batch.labels[0].numel()
    origin = out.origin.flatten(1)
    own = torch.arange(200 * size).view(200, size)
    mixed = origin != own
    assert torch.equal(origin[mixed], ((own + size) % (200 * size))[mixed])
    assert abs(mixed.any(1).float().mean() - prob) < 0.1
    for old, new in ((batch.labels, out.labels), (batch.confidence, out.confidence)):
        assert torch.equal(old.flatten()[origin.flatten()], new.flatten())


@pytest.mark.parametrize('present', [[2], [0, 254], [1, 3, 7], [0, 4, 5, 9], list(range(21))])
def test_half_of_the_present_classes_is_chosen(present):
    labels = torch.tensor(present * 3 + [255] * 5).view(1, 1, -1)
    kept = random_half_of_classes(labels.expand(200, -1, -1), torch.Generator().manual_seed(0))
    assert kept.sum(dim=1).eq(len(present) // 2).all()
    assert set(kept.any(dim=0).nonzero().flatten().tolist()) <= set(present)


def test_every_subset_is_equally_likely():
    present, draws = [1, 3, 8, 20], 6000
    labels = torch.tensor([*present, 255, 1, 1]).view(1, 1, -1).expand(draws, -1, -1)
    kept = random_half_of_classes(labels, torch.Generator().manual_seed(0))
    for pair in combinations(present, 2):
        # Six subsets: a share of 1/6 with a standard error below 0.005.
        assert abs(kept[:, pair].all(dim=1).float().mean().item() - 1 / 6) < 0.02


@pytest.mark.parametrize('name', ['CutOut', 'CutMix', 'ClassMix'])
def test_a_seed_decides_and_the_input_stays(name):
    augment = TASK_UTILS.build(dict(type=name))
    batch = make_batch(4, (15, 11))
    before = [x.clone() for x in batch]
    first, second, other = (
        augment(batch, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.images, other.images)
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))


@pytest.mark.parametrize('augment', [CutMix(), ClassMix()])
def test_an_image_mixed_with_itself_is_itself(augment):
    batch = make_batch(1)
    assert all(torch.equal(a, b) for a, b in zip(augment(batch), batch, strict=True))


def test_nothing_is_kept_of_an_image_without_two_classes():
    batch = make_batch(3)
    batch.labels[0] = 255
    batch.labels[1] = 7
    out = ClassMix()(batch)
    for before, after in zip(batch, out, strict=True):
        assert torch.equal(after[:2], before[1:])


def test_cut_out_ignores_half():
    batch = make_batch(5, (40, 60))
    out = CutOut()(batch._replace(labels=torch.ones_like(batch.labels)))
    removed = out.labels == 255
    assert torch.allclose(removed.float().mean(dim=(1, 2)), torch.tensor(0.5), atol=0.02)
    assert torch.equal(removed, out.confidence == 0)
    assert torch.equal(removed, (out.images == 0).all(dim=1))


@pytest.mark.parametrize('argument, name', [
    (dict(prob=1.5), 'prob'),
    (dict(area=(0, 0.4)), 'area'),
    (dict(area=(0.4, 0.2)), 'area'),
    (dict(area=(0.2, 1.1)), 'area'),
])
def test_arguments_of_random_cut_mix_are_refused_by_name(argument, name):
    with pytest.raises(ValueError, match=name):
        TASK_UTILS.build(dict(type='RandomCutMix', **argument))
