# Licensed under the Apache License, Version 2.0.
"""Teacher regions against plain loops over pixels."""
import pytest
import torch
import torch.nn.functional as F

from mmseg_reco.models.preprocess import (
    BatchFlip,
    BatchRescaleCrop,
    ClassMix,
    CutMix,
    CutOut,
    PseudoBatch,
)
from mmseg_reco.models.regions.extraction import (
    keep_largest,
    look_up,
    mix_regions,
    query_regions,
    semantic_regions,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('resolution', [(12, 16), (6, 8), (3, 4), (5, 7)])
def test_look_up_finds_the_cell_of_the_pixel(resolution):
    size = (12, 16)
    maps = torch.rand(3, 5, *resolution, generator=seeded())
    origin = torch.randint(-1, 3 * 12 * 16, (3, 4, 6), generator=seeded(1))
    out = look_up(maps, origin, size)
    for b in range(3):
        for y in range(4):
            for x in range(6):
                place = origin[b, y, x].item()
                if place < 0:
                    assert not out[b, :, y, x].any()
                    continue
                image, row, column = place // 192, place // 16 % 12, place % 16
                assert torch.equal(
                    out[b, :, y, x],
                    maps[image, :, row * resolution[0] // 12, column * resolution[1] // 16])


def test_semantic_regions_are_the_classes_of_the_map():
    semantic = torch.randint(0, 4, (2, 6, 7), generator=seeded())
    semantic[0, :2] = 255
    valid = torch.rand(2, 6, 7, generator=seeded(1)) < 0.7
    masks, labels = semantic_regions(semantic, valid, 5)
    assert torch.equal(labels, torch.arange(5).expand(2, 5))
    for k in range(5):
        assert torch.equal(masks[:, k], ((semantic == k) & valid).float())


def test_query_regions_need_a_class_a_probability_and_a_mask():
    class_probs = torch.tensor([[[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1],
                                 [0.05, 0.9, 0.05]]])
    masks = torch.tensor([0.6, 0.9, 0.9, 0.4]).view(1, 4, 1, 1).repeat(1, 1, 2, 3)
    masks[0, 3, 0, 0] = 0.7
    out, labels = query_regions(masks, class_probs, 0.7)
    assert labels.tolist() == [[0, 2, 0, 1]]
    assert out[0, 0].all()  # confident, and above one half everywhere
    assert not out[0, 1].any()  # no object
    assert not out[0, 2].any()  # below the threshold
    assert out[0, 3].sum() == 1 and out[0, 3, 0, 0] == 1


def test_query_regions_are_strictly_above_the_threshold_and_one_half():
    above = 0.75 + 2**-20
    class_probs = torch.tensor([[[0.75, 0.25, 0.], [0.25, 0.75, 0.], [above, 1 - above, 0.]]])
    masks = torch.tensor([[0.5, 0.5 + 2**-20, 1.], [0., 0.5, 0.5 - 2**-20]])
    out, labels = query_regions(masks.expand(1, 3, 2, 3), class_probs, 0.75)
    assert labels.tolist() == [[0, 1, 0]]
    assert not out[0, :2].any()
    assert out[0, 2].tolist() == [[0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize('mix', [ClassMix, CutMix, CutOut, None])
def test_regions_move_with_the_pixels(mix):
    """Each query's mask is drawn into the label map, and must be found again after mixing."""
    num, size, queries = 3, (16, 20), 4
    labels = torch.randint(0, queries, (num, *size), generator=seeded())
    masks = F.one_hot(labels, queries).permute(0, 3, 1, 2).float()
    classes = torch.arange(num * queries).view(num, queries)
    probs = torch.rand(num, queries, 13, generator=seeded(1))
    strong = PseudoBatch(torch.rand(num, 3, *size), labels, torch.ones(num, *size)).track_origin()
    for augment in (BatchRescaleCrop(), mix and mix(), BatchFlip()):
        strong = augment(strong, seeded(2)) if augment else strong
    out, out_classes, out_probs = mix_regions(masks, classes, probs, strong.origin, size)
    assert out.shape == (num, 2 * queries, *size)
    for i in range(num):
        following = (i + 1) % num
        assert out_classes[i].tolist() == [*classes[i].tolist(), *classes[following].tolist()]
        assert torch.equal(out_probs[i], torch.cat([probs[i], probs[following]]))
        for y in range(size[0]):
            for x in range(size[1]):
                inside = out_classes[i][out[i, :, y, x] == 1].tolist()
                place = strong.origin[i, y, x].item()
                image = place // (size[0] * size[1])
                assert place < 0 or image in (i, following)
                expected = [] if place < 0 else [classes[image, strong.labels[i, y, x]].item()]
                assert inside == expected


def test_keep_largest():
    areas = torch.tensor([[3, 1, 5, 2], [0, 4, 0, 6]])
    masks = (torch.arange(8) < areas[..., None]).float().view(2, 4, 2, 4)
    labels = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
    probs = torch.rand(2, 4, 9, generator=seeded())
    out, kept, kept_probs = keep_largest(masks, labels, probs, 2)
    assert kept.tolist() == [[2, 0], [7, 5]]
    assert out.flatten(2).sum(2).tolist() == [[5, 3], [6, 4]]
    assert torch.equal(kept_probs[0], probs[0, [2, 0]])
    assert keep_largest(masks, labels, None, 4)[2] is None
    assert keep_largest(masks, labels, None, 3)[2] is None
