# Licensed under the Apache License, Version 2.0.
"""Region mask contrast where the answer is known; what all region losses share is tested apart."""
import math

import pytest
import torch

from mmseg_reco.models.losses import RegionMaskContrastiveLoss
from mmseg_reco.models.losses.region_mask_contrastive_loss import region_mask_contrast
from mmseg_reco.models.regions import RegionPrediction, RegionTarget

SIDE = 8


def columns(number, size=SIDE):
    """Masks (1, number, size, size) that divide an image into columns."""
    owner = torch.arange(size) * number // size
    return (owner == torch.arange(number)[:, None]).float()[None, :, None].repeat(1, 1, size, 1)


def contrast(masks, teacher_masks, match, temperature=0.1):
    number = teacher_masks.size(1)
    return region_mask_contrast(
        masks, teacher_masks, torch.ones(1, *masks.shape[2:], dtype=torch.bool),
        torch.tensor([match]), torch.ones(1, number, dtype=torch.bool), temperature)


def test_perfect_masks():
    """Four disjoint columns of 16 pixels: d = 1 for the match, 1 / 33 for the three others."""
    loss, dice = contrast(columns(4), columns(4), [0, 1, 2, 3])
    expected = math.log(1 + 3 * math.exp((1 / 33 - 1) / 0.1))
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert float(dice) == 1


def test_the_wrong_match_costs():
    loss, dice = contrast(columns(4), columns(4), [1, 0, 3, 2])
    shift = (1 - 1 / 33) / 0.1
    assert float(loss) == pytest.approx(shift + math.log(1 + 3 * math.exp(-shift)), rel=1e-5)
    assert float(dice) == pytest.approx(1 / 33)


def test_equal_masks_give_the_logarithm_of_their_number():
    masks = torch.full((1, 6, SIDE, SIDE), 0.3)
    loss, _ = contrast(masks, columns(2), [4, 1])
    assert float(loss) == pytest.approx(math.log(6), rel=1e-6)


def test_loss_is_relative_where_dice_is_absolute():
    """One pixel of the region found, others nothing of it: little loss at low temperature."""
    masks = torch.zeros(1, 2, SIDE, SIDE)
    masks[0, 0, :2, 0] = 1
    masks[0, 1, :, SIDE // 2:] = 1
    loss, dice = contrast(masks, columns(2)[:, :1], [0], temperature=0.01)
    assert float(loss) < 1e-3 and float(dice) < 0.2


def test_descent_finds_the_masks():
    """Gradient descent on the masks' logits finds the teacher's masks."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, SIDE, SIDE, generator=generator, requires_grad=True)
    teacher = columns(3)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    history = []
    for _ in range(60):
        loss, dice = contrast(logits.sigmoid(), teacher, [2, 0, 3])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((float(loss), float(dice)))
    assert history[-1][0] < 0.05 * history[0][0]
    assert history[-1][1] > 0.7 > 0.5 > history[0][1]


def test_module_reports_the_dice_of_matched_pairs():
    """Mean over the regions of an image, then over images with regions, as the loss is."""
    masks = columns(2).repeat(3, 1, 1, 1)
    exists = torch.tensor([[True, True], [True, False], [False, False]])
    match = torch.tensor([[0, 1], [1, 5], [5, 5]])
    teacher = RegionTarget(
        masks=masks, labels=torch.zeros(3, 2, dtype=torch.long), exists=exists, features=masks,
        semantic=torch.zeros(3, SIDE, SIDE, dtype=torch.long),
        valid=torch.ones(3, SIDE, SIDE, dtype=torch.bool), match=match)
    loss = RegionMaskContrastiveLoss()
    loss(RegionPrediction(masks, masks, masks), teacher)
    assert set(loss.diagnostics) == {'matched_dice'}
    assert float(loss.diagnostics['matched_dice']) == pytest.approx((1 + 1 / 65) / 2)
    assert loss.temperature == 0.1 and loss.loss_weight == 1
