# Licensed under the Apache License, Version 2.0.
from itertools import permutations

import pytest
import torch
from test_matching import loop_cost

from mmseg_reco.models.regions import HungarianMatcher, RegionPrediction, region_target

B, N, K, C, MAP, IMAGE = 2, 5, 7, 3, (6, 8), (12, 16)


def make_case(seed=0, queries=True):
    """Student and teacher regions, and a label map of the strong view, all at random."""
    generator = torch.Generator().manual_seed(seed)

    def regions(num):
        logits = 4 * torch.randn(B, num, K + 1, generator=generator) if queries else None
        masks = torch.rand(B, num, *MAP, generator=generator)
        return RegionPrediction(masks, torch.rand(B, C, *MAP, generator=generator),
                                torch.rand(B, K, *MAP, generator=generator), logits)

    num = N if queries else K
    return dict(
        student=regions(num), teacher=regions(num),
        semantic=torch.randint(0, K, (B, *IMAGE), generator=generator),
        valid=torch.rand(B, *IMAGE, generator=generator) < 0.8,
        origin=torch.arange(B * 12 * 16).view(B, *IMAGE), weak_size=IMAGE, source='query',
        threshold=0.5, min_area=0, matcher=HungarianMatcher())


def test_query_source_takes_confident_queries_where_pixels_are_valid():
    case = make_case()
    target = region_target(**case)
    probs = case['teacher'].class_logits.softmax(-1)
    valid = case['valid'][:, ::2, ::2]
    assert torch.equal(target.valid, valid)
    assert torch.equal(target.semantic, case['semantic'][:, ::2, ::2])
    assert torch.equal(target.features, case['teacher'].features)  # nothing moved
    for b in range(B):
        expected = []
        for n in range(N):
            top = probs[b, n].argmax().item()
            mask = (case['teacher'].masks[b, n] > 0.5) & valid[b]
            if top < K and probs[b, n, top] > 0.5 and mask.any():
                expected.append((top, mask.float(), probs[b, n]))
        found = [(target.labels[b, t].item(), target.masks[b, t], target.class_probs[b, t])
                 for t in range(N) if target.exists[b, t]]
        assert len(found) == len(expected) > 0
        for label, mask, soft in expected:
            assert any(label == other[0] and torch.equal(mask, other[1]) and
                       torch.equal(soft, other[2]) for other in found)
        matches = target.match[b][target.exists[b]].tolist()
        assert len(set(matches)) == len(matches)


@pytest.mark.parametrize('source', ['query', 'semantic'])
def test_regions_must_be_larger_than_the_minimum(source):
    """The minimum is the very area of one of them, which must go."""
    case = {**make_case(), 'source': source}
    every = region_target(**case)
    areas = every.masks.flatten(2).sum(2)
    assert torch.equal(every.exists, areas > 0)
    middle = int(areas[every.exists].median())
    target = region_target(**{**case, 'min_area': middle})
    assert torch.equal(target.exists, areas > middle)
    assert areas[every.exists].min() < middle < areas.max()
    assert torch.equal(target.masks[target.exists], every.masks[target.exists])
    assert not target.masks[~target.exists].any()


@pytest.mark.parametrize('source', ['query', 'semantic'])
@pytest.mark.parametrize('seed', range(3))
def test_match_is_the_cheapest_for_the_student(seed, source):
    case = {**make_case(seed), 'source': source}
    case['valid'][..., 8:] = False  # half of each image
    areas = region_target(**case).masks.flatten(2).sum(2)
    case['min_area'] = int(areas[areas > 0].min())  # the smallest region is not matched
    student, target = case['student'], region_target(**case)
    cost = loop_cost(student.class_logits, student.masks, target.masks, target.labels,
                     target.valid)
    for b in range(B):
        regions = target.exists[b].nonzero()[:, 0].tolist()
        best = min(permutations(range(N), len(regions)),
                   key=lambda queries: sum(cost[b, t, n] for t, n in zip(regions, queries,
                                                                         strict=True)))
        assert target.match[b, regions].tolist() == list(best)


def test_pixels_that_do_not_count_make_no_region_large():
    """Ten regions for five queries: of the two with most pixels, all but one pixel is ignored."""
    case = make_case()
    case['valid'] = torch.zeros(B, *IMAGE, dtype=torch.bool)
    case['valid'][:, 6:] = True
    case['origin'][..., 8:] = case['origin'].flip(0)[..., 8:]  # half of each image is the other's
    masks, logits = case['teacher'].masks, case['teacher'].class_logits
    masks[:, :, :3] = 0
    masks[:, 0], masks[:, 0, :3], masks[:, 0, 3, ::4] = 0, 1, 1
    logits[:, :, -1] = -50
    logits.mul_(10)
    target = region_target(**case)
    assert target.exists.all()
    for b in range(B):
        parts = []
        for image, columns in ((b, slice(0, 4)), (1 - b, slice(4, 8))):
            for n in range(N):
                part = torch.zeros(MAP)
                part[3:, columns] = (masks[image, n, 3:, columns] > 0.5).float()
                parts.append((part, logits[image, n].argmax().item(),
                              logits[image, n].softmax(0)))
        areas = sorted((part.sum().item() for part, *_ in parts), reverse=True)
        assert areas[N - 1] > areas[-1] == areas[-2] == 1
        kept = target.masks[b].flatten(1).sum(1).tolist()
        assert sorted(kept, reverse=True) == areas[:N]
        for t in range(N):
            assert any(torch.equal(target.masks[b, t], part) and target.labels[b, t] == label and
                       torch.equal(target.class_probs[b, t], soft)
                       for part, label, soft in parts)


def test_semantic_source_keeps_the_largest_classes():
    """Seven classes and five queries: the two smallest classes have no query to go to."""
    case = {**make_case(), 'source': 'semantic'}
    target = region_target(**case)
    labels, valid = case['semantic'][:, ::2, ::2], case['valid'][:, ::2, ::2]
    assert target.class_probs is None and target.masks.size(1) == N
    for b in range(B):
        areas = torch.tensor([((labels[b] == k) & valid[b]).sum() for k in range(K)])
        kept = target.masks[b].flatten(1).sum(1)
        assert torch.equal(kept.sort().values, areas.sort().values[-N:].float())
        for t in range(N):
            k = target.labels[b, t]
            assert torch.equal(target.masks[b, t], ((labels[b] == k) & valid[b]).float())


def test_per_pixel_regions_are_matched_class_by_class():
    case = {**make_case(queries=False), 'source': 'semantic', 'matcher': None}
    case['semantic'] = case['semantic'].clamp(max=3)
    target = region_target(**case)
    assert torch.equal(target.match, torch.arange(K).expand(B, K))
    assert target.exists[:, :4].all() and not target.exists[:, 4:].any()


def test_nothing_of_the_target_carries_a_gradient():
    case = make_case()
    for side in ('student', 'teacher'):
        case[side] = RegionPrediction(*(x.requires_grad_() for x in case[side]))
    assert not any(field.requires_grad for field in region_target(**case) if field is not None)
