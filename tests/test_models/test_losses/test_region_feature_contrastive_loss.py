# Licensed under the Apache License, Version 2.0.
"""Region feature contrast where the answer is known; what region losses share is tested apart."""
import math

import pytest
import torch

from mmseg_reco.models.losses import RegionFeatureContrastiveLoss
from mmseg_reco.models.losses.region_feature_contrastive_loss import region_feature_contrast
from mmseg_reco.models.regions import RegionPrediction, RegionTarget

AXES = torch.eye(4)[None]


def contrast(student, teacher, labels, match, exists=None, temperature=0.5, **switches):
    labels, match = torch.tensor(labels), torch.tensor(match)
    exists = torch.ones_like(labels) if exists is None else torch.tensor(exists)
    loss, similarity = region_feature_contrast(student, teacher, labels, match, exists.bool(),
                                               temperature, **switches)
    return float(loss), float(similarity)


def test_orthogonal_regions():
    """Cosine 1 with the match, 0 with the three others."""
    loss, similarity = contrast(AXES, AXES[:, :2], [[0, 1]], [[0, 1]])
    assert loss == pytest.approx(math.log(1 + 3 * math.exp(-2)))
    assert similarity == 1
    loss, similarity = contrast(AXES, -AXES[:, :1], [[0]], [[0]])
    assert loss == pytest.approx(math.log(1 + 3 * math.exp(2)))
    assert similarity == -1


def test_lengths_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 4, 3, generator=generator) for _ in range(2))
    lengths = torch.tensor([1e-3, 1., 50., 1e4])[:, None]
    expected = contrast(student, teacher, [[0, 1, 2, 3]], [[3, 1, 0, 2]])
    scaled = contrast(student * lengths, teacher * lengths.flip(0), [[0, 1, 2, 3]], [[3, 1, 0, 2]])
    assert scaled == pytest.approx(expected, rel=1e-5)


def test_zero_vectors_have_similarity_zero_and_no_gradient():
    student = torch.zeros(1, 4, 4, requires_grad=True)
    loss, similarity = region_feature_contrast(
        student, AXES, torch.arange(4)[None], torch.arange(4)[None],
        torch.ones(1, 4, dtype=torch.bool), 0.5)
    loss.backward()
    assert float(loss) == pytest.approx(math.log(4)) and similarity == 0
    assert not student.grad.any()


def test_same_class_negatives():
    """Regions 0 and 1 share a class, 2 has another, and query 3 is not matched."""
    labels, match = [[7, 7, 2]], [[0, 1, 2]]
    with_all, _ = contrast(AXES, AXES[:, :3], labels, match)
    assert with_all == pytest.approx(math.log(1 + 3 * math.exp(-2)))
    without, _ = contrast(AXES, AXES[:, :3], labels, match, same_class_negatives=False)
    assert without == pytest.approx(
        (2 * math.log(1 + 2 * math.exp(-2)) + math.log(1 + 3 * math.exp(-2))) / 3)


def test_the_class_of_a_missing_region_is_nobodys():
    """Query 1 would leave the sum with the region that it is matched with."""
    loss, _ = contrast(AXES, AXES[:, :2], [[7, 7]], [[0, 1]], exists=[[True, False]],
                       same_class_negatives=False)
    assert loss == pytest.approx(math.log(1 + 3 * math.exp(-2)))


def test_cross_image_negatives():
    """Of the other image only matched queries of another class count."""
    student, teacher = AXES.repeat(2, 1, 1), AXES[:, :2].repeat(2, 1, 1)
    labels, match = [[0, 1], [1, 5]], [[0, 1], [0, 1]]
    # Cosines with the other image. Region (0, 0): 1, 0. (0, 1): class 1 left out, 1.
    # (1, 0): 1, class 1 left out. (1, 1): 0, 1.
    extra = [math.exp(2) + 1, math.exp(2), math.exp(2), math.exp(2) + 1]
    expected = sum(math.log((math.exp(2) + 3 + more) / math.exp(2)) for more in extra) / 4
    loss, similarity = contrast(student, teacher, labels, match, cross_image_negatives=True)
    assert loss == pytest.approx(expected) and similarity == 1


def test_cross_image_negatives_of_one_image_change_nothing():
    switches = (contrast(AXES, AXES[:, :2], [[0, 1]], [[0, 1]], cross_image_negatives=switch)
                for switch in (True, False))
    assert next(switches) == next(switches)


def test_cross_image_negatives_learn():
    """The student regions of the other image get a gradient from this image's regions."""
    student = AXES.repeat(2, 1, 1) + 0.1
    student.requires_grad_()
    labels, match = torch.tensor([[0], [1]]), torch.tensor([[0], [1]])
    loss, _ = region_feature_contrast(student, AXES[:, :1].repeat(2, 1, 1), labels, match,
                                      torch.tensor([[True], [True]]), 0.5,
                                      cross_image_negatives=True)
    grad, = torch.autograd.grad(loss, student)
    alone, _ = region_feature_contrast(student, AXES[:, :1].repeat(2, 1, 1), labels, match,
                                       torch.tensor([[True], [True]]), 0.5)
    grad_alone, = torch.autograd.grad(alone, student)
    assert not torch.allclose(grad[0, 0], grad_alone[0, 0])
    assert not torch.allclose(grad[1, 1], grad_alone[1, 1])


def test_module_pools_both_sides_over_their_own_masks():
    """Left and right halves of two pixels; the teacher's features are the student's, swapped."""
    features = torch.tensor([[[[1., 0.]], [[0., 1.]]]])
    halves = torch.tensor([[[[1., 0.]], [[0., 1.]]]])
    student = RegionPrediction(halves, features, halves)
    teacher = RegionTarget(
        masks=halves, labels=torch.tensor([[0, 1]]), exists=torch.tensor([[True, True]]),
        features=features.flip(1), semantic=torch.tensor([[[0, 1]]]),
        valid=torch.ones(1, 1, 2, dtype=torch.bool), match=torch.tensor([[0, 1]]))
    loss = RegionFeatureContrastiveLoss(temperature=1.)
    # The match is orthogonal, the other region parallel.
    assert float(loss(student, teacher)) == pytest.approx(math.log(1 + math.e), rel=1e-5)
    assert set(loss.diagnostics) == {'matched_similarity'}
    assert float(loss.diagnostics['matched_similarity']) == 0
    swapped = teacher._replace(match=torch.tensor([[1, 0]]))
    assert float(loss(student, swapped)) == pytest.approx(math.log(1 + 1 / math.e), rel=1e-5)
    assert float(loss.diagnostics['matched_similarity']) == pytest.approx(1)


def test_defaults():
    loss = RegionFeatureContrastiveLoss()
    assert (loss.temperature, loss.same_class_negatives, loss.cross_image_negatives,
            loss.loss_weight) == (0.1, True, False, 1.)
