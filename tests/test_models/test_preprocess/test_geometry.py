# Licensed under the Apache License, Version 2.0.
"""Rescale, crop and flip against NumPy, PIL and a plain loop over pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import TASK_UTILS
from PIL import Image

from mmseg_reco.models.preprocess import BatchFlip, BatchRescaleCrop, PseudoBatch
from mmseg_reco.models.preprocess.geometry import rescale_crop


def make_batch(num=3, size=(23, 31), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num, 3, *size, generator=generator).to(dtype)
    labels = torch.randint(0, 21, (num, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    confidence = torch.rand(num, *size, generator=generator).to(dtype)
    return PseudoBatch(images, labels, confidence).track_origin()


def reference(image, label, confidence, new_size, offset, crop_size):
    """One image: resize, pad right and bottom, crop; each step by another library."""
    image = F.interpolate(image[None], new_size, mode='bilinear', align_corners=False)[0].numpy()
    label, confidence = (
        np.array(Image.fromarray(x.numpy()).resize(new_size[::-1], Image.NEAREST))
        for x in (label.int(), confidence)
    )
    need = [max(o + c - n, 0) for o, c, n in zip(offset, crop_size, new_size, strict=True)]
    padding = [(0, n) for n in need]
    image = np.pad(image, [(0, 0), *padding], mode='reflect')
    label = np.pad(label, padding, constant_values=255)
    confidence = np.pad(confidence, padding, constant_values=0)
    box = tuple(slice(o, o + c) for o, c in zip(offset, crop_size, strict=True))
    return image[(slice(None), *box)], label[box], confidence[box]


@pytest.mark.parametrize(
    'new_sizes, offsets, crop_size',
    [
        ([(40, 50), (29, 31), (23, 47)], [(3, 10), (0, 0), (0, 7)], (23, 31)),  # up
        ([(11, 15), (7, 20), (5, 3)], [(0, 0), (0, 0), (0, 0)], (23, 31)),  # down: padded
        ([(12, 46), (34, 15), (23, 31)], [(0, 9), (7, 0), (0, 0)], (20, 29)),  # other crop
        ([(46, 62), (69, 93), (10, 90)], [(5, 6), (40, 60), (0, 3)], (27, 33)),  # whole factors
    ],
)
def test_rescale_crop_matches_the_per_image_way(new_sizes, offsets, crop_size):
    batch = make_batch()
    out = rescale_crop(batch, torch.tensor(new_sizes), torch.tensor(offsets), crop_size)
    assert out.labels.dtype == torch.int64
    for i in range(3):
        image, label, confidence = reference(
            *(x[i] for x in batch[:3]), new_sizes[i], offsets[i], crop_size
        )
        np.testing.assert_allclose(out.images[i].numpy(), image, atol=1e-5)
        np.testing.assert_array_equal(out.labels[i].numpy(), label)
        np.testing.assert_array_equal(out.confidence[i].numpy(), confidence)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_a_crop_without_rescaling_is_bit_equal(dtype):
    batch = make_batch(2, dtype=dtype)
    out = rescale_crop(batch, torch.tensor([(23, 31)] * 2), torch.tensor([(0, 5), (7, 2)]), (9, 11))
    for i, (top, left) in enumerate([(0, 5), (7, 2)]):
        for before, after in zip(batch, out, strict=True):
            assert after.dtype == before.dtype
            assert torch.equal(after[i], before[i][..., top : top + 9, left : left + 11])


def test_one_pixel_is_repeated_where_nothing_can_be_reflected():
    batch = make_batch(1, (1, 1))
    out = rescale_crop(batch, torch.ones(1, 2).long(), torch.zeros(1, 2).long(), (3, 4))
    assert torch.equal(out.images, batch.images.expand(1, 3, 3, 4))
    assert (out.labels != 255).sum() == (batch.labels != 255).sum()
    assert out.labels.flatten()[1:].eq(255).all()
    assert out.confidence.flatten()[1:].eq(0).all()


def test_unit_ratio_is_the_identity():
    batch = make_batch()
    for crop_size in (None, (23, 31)):
        out = BatchRescaleCrop(crop_size, ratio_range=(1.0, 1.0))(batch)
        assert all(torch.equal(a, b) and a is not b for a, b in zip(out, batch, strict=True))


def test_random_rescale_crop_draws_a_ratio_and_a_place_for_every_image():
    """The image holds its own coordinates, so ratio and place can be read off the result."""
    num, side = 400, 40
    ramp = torch.arange(side).float()
    images = torch.zeros(num, 3, side, side)
    images[:, 0] = ramp[:, None]
    images[:, 1] = ramp
    labels = torch.zeros(num, side, side, dtype=torch.int64)
    batch = PseudoBatch(images, labels, torch.ones(num, side, side))
    generator = torch.Generator().manual_seed(1)
    out = BatchRescaleCrop(ratio_range=(0.5, 1.5))(batch, generator)

    step = out.images[:, 0, 9, 0] - out.images[:, 0, 8, 0]
    assert torch.allclose(step, out.images[:, 1, 0, 9] - out.images[:, 1, 0, 8], atol=1e-3)
    new_size = side / step
    assert new_size.min() >= 19.9 and new_size.max() < 60.1
    assert abs(new_size.mean().item() - 39.5) < 2.5  # uniform on 20..60, rounded down
    padded = (out.labels == 255).any(dim=2).any(dim=1)
    assert torch.equal(padded, new_size < 39.5)
    # Where there is room the place is uniform over it.
    large = new_size > 45
    top = ((out.images[:, 0, 0, 0] + 0.5) / step - 0.5)[large]
    place = top / (new_size[large] - side)
    assert place.min() < 0.1 and place.max() > 0.9
    assert abs(place.mean().item() - 0.5) < 0.1


def test_crops_begin_at_every_place():
    """Of 2 x 3 pixels in images of 4 x 4: in one of three rows and, independently, two columns."""
    crop = BatchRescaleCrop((2, 3), (1, 1))
    origin = crop(make_batch(1200, (4, 4)), torch.Generator().manual_seed(0)).origin
    counts = torch.bincount(origin[:, 0, 0] % 16, minlength=16).view(4, 4)
    assert counts[:3, :2].sum() == 1200
    # 200 expected of each, standard deviation 13
    assert (counts[:3, :2] - 200).abs().max() < 65


def test_flip_moves_image_label_and_confidence_together():
    num = 200
    batch = make_batch(num, (4, 7))
    out = BatchFlip()(batch.map(torch.clone), torch.Generator().manual_seed(0))
    flipped = 0
    for i in range(num):
        mirrored = not torch.equal(out.images[i], batch.images[i])
        flipped += mirrored
        for before, after in zip(batch, out, strict=True):
            assert torch.equal(after[i], before[i].flip(-1) if mirrored else before[i])
    assert 70 < flipped < 130


def test_rescale_crop_leaves_its_input_as_it_is():
    batch = make_batch(8)
    kept = batch.map(torch.clone)
    BatchRescaleCrop()(batch)
    assert all(torch.equal(a, b) for a, b in zip(batch, kept, strict=True))


@pytest.mark.parametrize('augment', [BatchRescaleCrop(), BatchFlip()])
def test_a_seed_decides(augment):
    first, second, other = (
        augment(make_batch(8), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.images, other.images)


def test_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match='ratio_range'):
        TASK_UTILS.build(dict(type='BatchRescaleCrop', ratio_range=(0, 1)))
    with pytest.raises(ValueError, match='ratio_range'):
        BatchRescaleCrop(ratio_range=(1.5, 0.5))
    with pytest.raises(ValueError, match='prob'):
        TASK_UTILS.build(dict(type='BatchFlip', prob=1.1))
