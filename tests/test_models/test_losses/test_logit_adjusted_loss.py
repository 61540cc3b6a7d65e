# Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from mmseg.registry import MODELS

from mmseg_reco.models import LogitAdjustedLoss


def test_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, :2] = 255
    ratio = (0.5, 2., 4.)
    terms = []
    for image, row, column in (labels != 255).nonzero().tolist():
        scores = [ratio[c] * math.exp(logits[image, c, row, column]) for c in range(3)]
        terms.append(-math.log(scores[labels[image, row, column]] / sum(scores)))
    loss = LogitAdjustedLoss(ratio, avg_non_ignore=True, loss_weight=3)
    assert loss(logits, labels, ignore_index=255).item() == pytest.approx(
        3 * sum(terms) / len(terms), rel=1e-5)


def test_a_common_factor_cancels_and_equal_ratios_are_the_stock_loss():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    stock = MODELS.build(dict(type='mmseg.CrossEntropyLoss'))(logits, labels).item()
    assert LogitAdjustedLoss([7., 7., 7.])(logits, labels).item() == pytest.approx(stock, rel=1e-5)
    losses = [LogitAdjustedLoss([scale, 2 * scale, scale])(logits, labels).item()
              for scale in (1., 50.)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] != pytest.approx(stock)


def test_logits_fitted_to_even_labels_predict_the_frequencies_of_the_images():
    """Bayes: features drawn as often per class, classes in the images 9 to 1."""
    likelihood = torch.tensor([[0.7, 0.3], [0.2, 0.8]])  # of two features, for each class
    features = torch.tensor([0] * 9 + [1] * 11)  # 20 labelled pixels, 10 of each class
    labels = torch.tensor([0] * 7 + [1] * 2 + [0] * 3 + [1] * 8)
    logits = torch.zeros(2, 2, requires_grad=True)  # feature, class
    loss = LogitAdjustedLoss([0.5 / 0.9, 0.5 / 0.1])
    optimizer = torch.optim.LBFGS([logits], max_iter=200)

    def closure():
        optimizer.zero_grad()
        value = loss(logits[features].T[None, :, None], labels[None, None])
        value.backward()
        return value

    optimizer.step(closure)
    joint = likelihood.T * torch.tensor([0.9, 0.1])
    assert logits.detach().softmax(1).numpy() == pytest.approx(
        (joint / joint.sum(1, keepdim=True)).numpy(), abs=1e-3)


def test_ratio_must_be_positive():
    with pytest.raises(ValueError, match='label_ratio must be > 0, got .*0'):
        LogitAdjustedLoss([1., 0.])


def test_ratio_travels_with_the_model_and_not_in_checkpoints():
    loss = LogitAdjustedLoss([1., 2.])
    assert not loss.state_dict() and loss.double().adjustment.dtype == torch.float64
