# Licensed under the Apache License, Version 2.0.
import pytest
import torch

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


@pytest.mark.parametrize('min_area', [0, 4, 8])
def test_regions_must_be_larger_than_the_minimum(min_area):
    case = make_case()
    areas = region_target(**case).masks.flatten(2).sum(2)
    target = region_target(**{**case, 'min_area': min_area})
    assert target.exists.sum() == (areas > min_area).sum()
    assert not target.masks[~target.exists].any()


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
