# Licensed under the Apache License, Version 2.0.
"""Matching against all permutations, and its cost against mmdet's."""
from itertools import permutations

import pytest
import torch
from mmseg.registry import TASK_UTILS

from mmseg_reco.models.regions.matching import HungarianMatcher, matching_cost


def make_case(seed=0, num=2, queries=5, regions=3, classes=4, size=(6, 7)):
    generator = torch.Generator().manual_seed(seed)
    return dict(
        class_logits=torch.randn(num, queries, classes + 1, generator=generator),
        masks=torch.rand(num, queries, *size, generator=generator),
        teacher_masks=(torch.rand(num, regions, *size, generator=generator) < 0.4).float(),
        labels=torch.randint(0, classes, (num, regions), generator=generator),
        valid=torch.rand(num, *size, generator=generator) < 0.8)


def loop_cost(class_logits, masks, teacher_masks, labels, valid, weights=(1, 20, 1)):
    """Written pixel by pixel, float64."""
    cost = torch.zeros(len(masks), teacher_masks.size(1), masks.size(1), dtype=torch.float64)
    for b in range(len(masks)):
        for t in range(teacher_masks.size(1)):
            for n in range(masks.size(1)):
                focal = both = inside = given = 0.
                for p, m, ok in zip(masks[b, n].flatten().double(), teacher_masks[b, t].flatten(),
                                    valid[b].flatten(), strict=True):
                    if not ok:
                        continue
                    focal -= (0.25 * (1 - p)**2 * p.log() if m else
                              0.75 * p**2 * (1 - p).log())
                    both, inside, given = both + p * m, inside + p, given + m
                dice = 1 - (2 * both + 1) / (inside + given + 1)
                prob = class_logits[b, n].double().softmax(0)[labels[b, t]]
                cost[b, t, n] = (weights[1] * focal / valid[b].sum() + weights[2] * dice -
                                 weights[0] * prob)
    return cost


def test_cost_counts_valid_pixels_only():
    case = make_case()
    torch.testing.assert_close(matching_cost(**case).double(), loop_cost(**case), rtol=1e-4,
                               atol=1e-5)
    weights = (2., 5., 3.)
    torch.testing.assert_close(
        matching_cost(**case, weights=weights).double(), loop_cost(**case, weights=weights),
        rtol=1e-4, atol=1e-5)


def test_autocast_does_not_round_the_cost():
    case = make_case(size=(20, 30))
    expected = matching_cost(**case)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(matching_cost(**case), expected)


def test_cost_is_that_of_mask_former():
    costs = pytest.importorskip('mmdet.models.task_modules.assigners.match_cost')
    from mmengine.structures import InstanceData
    case = make_case()
    case['valid'].fill_(True)
    ours = matching_cost(**case)
    for b in range(2):
        logits = case['masks'][b].logit()
        student = InstanceData(scores=case['class_logits'][b], masks=logits)
        teacher = InstanceData(labels=case['labels'][b], masks=case['teacher_masks'][b].long())
        theirs = sum(
            cost(student, teacher)
            for cost in (costs.ClassificationCost(weight=1.),
                         costs.FocalLossCost(weight=20., binary_input=True),
                         costs.DiceCost(weight=1., pred_act=True, eps=1.)))
        torch.testing.assert_close(ours[b], theirs.t(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('seed', range(5))
def test_match_is_the_cheapest_of_all(seed):
    case = make_case(seed, num=3)
    exists = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    match = TASK_UTILS.build(dict(type='HungarianMatcher'))(**case, exists=exists)
    assert match.shape == (3, 3) and match.dtype == torch.int64
    cost = loop_cost(**case)
    for b in range(3):
        regions = exists[b].nonzero()[:, 0].tolist()
        best = min(permutations(range(5), len(regions)),
                   key=lambda queries: sum(cost[b, t, n] for t, n in zip(regions, queries,
                                                                         strict=True)))
        assert match[b][exists[b]].tolist() == list(best)
        assert not match[b][~exists[b]].any()


@pytest.mark.parametrize('weights', [(1., 0., 0.), (0., 1., 0.), (0., 0., 1.)])
def test_match_follows_the_weights(weights):
    """One part of the cost alone: class probability, focal loss or Dice loss."""
    case = {**make_case(), 'labels': torch.tensor([[0, 1, 2], [3, 1, 0]])}
    exists = torch.ones(2, 3, dtype=torch.bool)
    match = HungarianMatcher(weights=weights)(**case, exists=exists)
    cost = loop_cost(**case, weights=weights)
    for b in range(2):
        best = min(permutations(range(5), 3),
                   key=lambda queries: sum(cost[b, t, n] for t, n in enumerate(queries)))
        assert match[b].tolist() == list(best)


def test_match_of_a_batch_waits_for_the_device_once(monkeypatch):
    case = make_case(num=3)
    exists = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)) < 0.7
    calls = []

    def counted(name):
        function = getattr(torch.Tensor, name)
        return lambda *args, **kwargs: calls.append(name) or function(*args, **kwargs)

    for name in ('cpu', 'item', 'tolist', 'nonzero'):
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    HungarianMatcher()(**case, exists=exists)
    assert calls == ['cpu']


def test_match_survives_a_diverged_student():
    case = make_case()
    case['masks'][0, 2] = float('nan')
    match = HungarianMatcher()(**case, exists=torch.ones(2, 3, dtype=torch.bool))
    assert all(len(set(row.tolist())) == 3 for row in match)
    assert 2 not in match[0]
