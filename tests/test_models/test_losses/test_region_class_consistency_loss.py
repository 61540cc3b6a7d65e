# Licensed under the Apache License, Version 2.0.
"""Region class consistency where the answer is known; what losses share is tested apart."""
import math

import pytest
import torch
from oracles import rc2l_oracle as oracle

from mmseg_reco.models.losses import RegionClassConsistencyLoss
from mmseg_reco.models.losses.region_class_consistency_loss import region_class_consistency


def one_hot(labels, classes=4):
    """Class distributions (B, T, classes) that are sure."""
    return torch.eye(classes, dtype=torch.float64)[torch.tensor(labels)]


def consistency(logits, probs, match, exists=None, weight=0.1):
    match = torch.tensor(match)
    exists = torch.ones_like(match) if exists is None else torch.tensor(exists)
    return float(region_class_consistency(logits, probs, match, exists.bool(), weight))


def test_undecided_queries_cost_the_logarithm_of_the_classes():
    """Whatever the weights: it is a weighted mean."""
    logits = torch.zeros(1, 5, 4, dtype=torch.float64)
    for weight in (0., 0.1, 1.):
        assert consistency(logits, one_hot([[2, 0]]), [[3, 1]], weight=weight) == pytest.approx(
            math.log(4))


def test_sure_queries_cost_nothing_or_their_margin():
    """Query 3 is class 2 and query 1 is class 0 as wanted; all others see no object."""
    sure = one_hot([[3, 0, 3, 2, 3]]) * 40
    assert consistency(sure, one_hot([[2, 0]]), [[3, 1]]) == pytest.approx(0, abs=1e-9)
    # Both regions wrong by 40, at weight 1 each, among weights 1 + 1 + 3 x 0.1.
    assert consistency(sure, one_hot([[0, 2]]), [[3, 1]]) == pytest.approx(80 / 2.3)
    # Matched elsewhere: queries 1, 3 miss "no object" (weight 0.1), queries 0, 2 miss a class.
    assert consistency(sure, one_hot([[2, 0]]), [[0, 2]]) == pytest.approx((80 + 8) / 2.3)


def test_without_weight_unmatched_queries_do_not_learn():
    student, teacher = oracle.random_regions(0, exists_share=1.)
    student.class_logits.requires_grad_()
    RegionClassConsistencyLoss(no_object_weight=0)(student, teacher).backward()
    learns = student.class_logits.grad.any(2)
    assert torch.equal(learns, torch.zeros_like(learns).scatter(1, teacher.match, True))


def test_images_without_regions_do_not_teach_no_object():
    logits = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    region_class_consistency(logits, one_hot([[1], [1]]), torch.tensor([[0], [0]]),
                             torch.tensor([[True], [False]]), 0.1).backward()
    assert logits.grad[0].any(1).all() and not logits.grad[1].any()


def test_soft_equals_hard_for_a_sure_teacher():
    student, teacher = oracle.random_regions(1)
    teacher = teacher._replace(class_probs=one_hot(teacher.labels.tolist(), 5))
    soft, hard = (RegionClassConsistencyLoss(soft=soft)(student, teacher) for soft in (True, False))
    assert float(soft) == pytest.approx(float(hard), rel=1e-12)


def test_soft_is_zero_where_the_student_agrees():
    """The divergence is 0, where cross-entropy would keep the teacher's entropy."""
    student, teacher = oracle.random_regions(2, exists_share=1.)
    probs = student.class_logits.softmax(2).gather(1, teacher.match[:, :, None].expand(-1, -1, 5))
    loss = RegionClassConsistencyLoss(no_object_weight=0, soft=True)
    student.class_logits.requires_grad_()
    value = loss(student, teacher._replace(class_probs=probs))
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(student.class_logits.grad, torch.zeros_like(student.class_logits),
                               rtol=0, atol=1e-12)


def test_soft_uses_no_labels_and_hard_no_distribution():
    student, teacher = oracle.random_regions(3)
    for soft, other in ((True, teacher._replace(labels=(teacher.labels + 1) % 4)),
                        (False, teacher._replace(class_probs=None))):
        loss = RegionClassConsistencyLoss(soft=soft)
        assert float(loss(student, other)) == float(loss(student, teacher))


def test_a_per_pixel_head_is_told_what_to_remove():
    student, teacher = oracle.random_regions()
    with pytest.raises(ValueError, match=r'query head \(MaskFormer, Mask2Former\), or remove '
                       r"dict\(type='RegionClassConsistencyLoss'\) from `losses`"):
        RegionClassConsistencyLoss()(student._replace(class_logits=None), teacher)


def test_soft_without_distributions_names_the_remedy():
    student, teacher = oracle.random_regions()
    with pytest.raises(ValueError, match="region_source='query', or soft=False"):
        RegionClassConsistencyLoss(soft=True)(student, teacher._replace(class_probs=None))


@pytest.mark.parametrize('weight', (-0.1, math.nan))
def test_no_object_weight_is_checked(weight):
    with pytest.raises(ValueError, match='no_object_weight must be >= 0'):
        RegionClassConsistencyLoss(no_object_weight=weight)


def test_defaults():
    loss = RegionClassConsistencyLoss()
    assert (loss.no_object_weight, loss.soft, loss.loss_weight) == (0.1, False, 1.)
