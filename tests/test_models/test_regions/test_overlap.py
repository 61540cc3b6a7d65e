# Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from oracles import rc2l_oracle as oracle

from mmseg_reco.models.regions import mask_average_pool, pairwise_dice
from mmseg_reco.models.regions.overlap import at_least_float32, soft_dice


def make_maps(dtype=torch.float64, size=(3, 4), channels=2):
    generator = torch.Generator().manual_seed(0)
    student, teacher, features = (
        torch.rand(2, number, *size, generator=generator, dtype=torch.float64).to(dtype)
        for number in (3, 2, channels))
    valid = torch.rand(2, *size, generator=generator) < 0.7
    return student, teacher, features - 0.5, valid


def values(plane, valid):
    """Values of one (h, w) map at its valid pixels."""
    return [float(plane[y, x]) for y in range(valid.shape[0]) for x in range(valid.shape[1])
            if valid[y, x]]


def test_dice_equals_the_loop():
    student, teacher, _, valid = make_maps()
    dice = pairwise_dice(student, teacher, valid)
    assert dice.shape == (2, 2, 3) and dice.dtype == torch.float64
    for image in range(2):
        for i in range(2):
            for j in range(3):
                assert float(dice[image, i, j]) == pytest.approx(oracle.dice(
                    values(student[image, j], valid[image]),
                    values(teacher[image, i], valid[image])), rel=1e-12)


def test_dice_of_known_masks():
    """Equal, half as large, disjoint, empty: areas 4, 2 and 0 of 8 pixels."""
    left = torch.tensor([[1., 1, 0, 0], [1, 1, 0, 0]])
    top = torch.tensor([[1., 1, 0, 0], [0, 0, 0, 0]])
    student = torch.stack([left, top, 1 - left, torch.zeros(2, 4)])[None]
    dice = pairwise_dice(student, torch.stack([left, torch.zeros(2, 4)])[None],
                         torch.ones(1, 2, 4, dtype=torch.bool))
    expected = torch.tensor([[[1, 5 / 7, 1 / 9, 1 / 5], [1 / 5, 1 / 3, 1 / 5, 1]]])
    torch.testing.assert_close(dice, expected)
    assert float(soft_dice(*torch.zeros(3))) == 1


def test_pooling_equals_the_loop():
    student, _, features, valid = make_maps()
    pooled = mask_average_pool(features, student, valid)
    assert pooled.shape == (2, 3, 2) and pooled.dtype == torch.float64
    for image in range(2):
        for j in range(3):
            weights = values(student[image, j], valid[image])
            for channel in range(2):
                products = [w * f for w, f in zip(
                    weights, values(features[image, channel], valid[image]), strict=True)]
                assert float(pooled[image, j, channel]) == pytest.approx(
                    sum(products) / (sum(weights) + 1e-6), rel=1e-12)


def test_pooling_of_known_regions():
    """A hard region has the mean of its pixels, an empty one zero."""
    features = torch.arange(8.).view(1, 1, 2, 4)
    masks = torch.zeros(1, 3, 2, 4)
    masks[0, 0, 0, :2] = 1
    masks[0, 1] = 0.5
    pooled = mask_average_pool(features, masks, torch.ones(1, 2, 4, dtype=torch.bool))
    torch.testing.assert_close(pooled, torch.tensor([[[0.5], [3.5], [0.]]]))


def test_gradients_are_finite_differences():
    student, teacher, features, valid = make_maps(size=(2, 2))
    student.requires_grad_(), features.requires_grad_()
    assert torch.autograd.gradcheck(lambda masks: pairwise_dice(masks, teacher, valid), [student])
    assert torch.autograd.gradcheck(lambda *maps: mask_average_pool(*maps, valid),
                                    [features, student])


def test_masks_do_not_count_where_not_valid():
    student, teacher, features, valid = make_maps()
    student.requires_grad_()
    masks = student.masked_fill(~valid[:, None], math.nan)
    garbage = teacher.masked_fill(~valid[:, None], math.inf)
    dice, pooled = pairwise_dice(masks, garbage, valid), mask_average_pool(features, masks, valid)
    torch.testing.assert_close(dice, pairwise_dice(student, teacher, valid), rtol=0, atol=0)
    torch.testing.assert_close(pooled, mask_average_pool(features, student, valid), rtol=0, atol=0)
    (dice.sum() + pooled.sum()).backward()
    assert torch.isfinite(student.grad).all()
    assert not student.grad[~valid[:, None].expand_as(student)].any()


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16))
def test_half_precision_is_summed_in_float32(dtype):
    """Also within autocast, and over more pixels than float16 can count."""
    student, teacher, features, valid = make_maps(dtype, size=(300, 300))
    student = student * 0 + 1
    with torch.autocast('cpu', torch.bfloat16):
        dice = pairwise_dice(student, teacher, valid)
        pooled = mask_average_pool(features, student, valid)
    assert dice.dtype == pooled.dtype == torch.float32
    torch.testing.assert_close(
        dice.double(), pairwise_dice(student.double(), teacher.double(), valid), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        pooled.double(), mask_average_pool(features.double(), student.double(), valid), rtol=0,
        atol=1e-5)


def test_at_least_float32():
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    assert [at_least_float32(torch.ones(1, dtype=dtype)).dtype for dtype in kinds] == [
        torch.float32, torch.float32, torch.float32, torch.float64]
