# Licensed under the Apache License, Version 2.0.
"""Semantic mask consistency where the answer is known; what losses share is tested apart."""
import pytest
import torch

from mmseg_reco.models.losses import SemanticMaskConsistencyLoss
from mmseg_reco.models.losses.semantic_mask_consistency_loss import semantic_mask_consistency

# Classes 0 (6 pixels) and 2 (2 pixels) of four.
SEMANTIC = torch.tensor([[[0, 0, 0, 2], [0, 0, 0, 2]]])
VALID = torch.ones(1, 2, 4, dtype=torch.bool)


def scores_of(semantic, classes=4):
    return (semantic[:, None] == torch.arange(classes)[:, None, None]).double()


def test_the_teachers_map_costs_nothing_and_its_opposite_almost_one():
    scores = scores_of(SEMANTIC)
    assert float(semantic_mask_consistency(scores, SEMANTIC, VALID)) == 0
    opposite = semantic_mask_consistency(1 - scores, SEMANTIC, VALID)
    assert float(opposite) == pytest.approx(1 - 1 / 9)


def test_uniform_scores():
    """Dice of class 0: (2 x 1.5 + 1) / (2 + 6 + 1); of class 2: (2 x 0.5 + 1) / (2 + 2 + 1)."""
    loss = semantic_mask_consistency(torch.full((1, 4, 2, 4), 0.25), SEMANTIC, VALID)
    assert float(loss) == pytest.approx(((1 - 4 / 9) + (1 - 2 / 5)) / 2)


def test_absent_classes_do_not_count():
    """Neither by value nor by number: scores of classes 1 and 3 are free."""
    scores = torch.full((1, 4, 2, 4), 0.25, requires_grad=True)
    semantic_mask_consistency(scores, SEMANTIC, VALID).backward()
    assert scores.grad[0].flatten(1).any(1).tolist() == [True, False, True, False]


def test_pairs_of_image_and_class_weigh_the_same():
    """One class in the second image, two in the first: a third each, not 1/2, 1/4 and 1/4."""
    semantic = torch.cat([SEMANTIC, torch.full_like(SEMANTIC, 3)])
    scores = scores_of(semantic)
    scores[1] = 0
    loss = semantic_mask_consistency(scores, semantic, VALID.repeat(2, 1, 1))
    assert float(loss) == pytest.approx((1 - 1 / 9) / 3)


def test_classes_seen_on_ignored_pixels_alone_are_absent():
    valid = SEMANTIC == 0
    scores = scores_of(SEMANTIC)
    scores[:, 2] = 0
    assert float(semantic_mask_consistency(scores, SEMANTIC, valid)) == 0
    assert float(semantic_mask_consistency(scores, SEMANTIC, VALID)) == pytest.approx(
        (1 - 1 / 3) / 2)


def test_scores_move_to_the_teachers_map():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 2, 4, generator=generator, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(40):
        loss = semantic_mask_consistency(logits.softmax(1), SEMANTIC, VALID)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(logits.argmax(1), SEMANTIC) and float(loss) < 0.05


def test_defaults():
    loss = SemanticMaskConsistencyLoss()
    assert loss.loss_weight == 1 and loss.diagnostics == {}
