# Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
import torch.nn.functional as F

from mmseg_reco.models import PseudoLabelLoss


def loop_loss(logits, labels, confidence, threshold, average, weight_by='image',
              class_weight=(1, 1, 1, 1)):
    """Plain loop over pixels."""
    terms, weights = [], []
    for image_logits, image_labels, image_confidence in zip(
            logits, labels, confidence, strict=True):
        valid = [(y, x) for y in range(labels.shape[1]) for x in range(labels.shape[2])
                 if image_labels[y, x] != 255]
        if not valid:
            continue
        share = sum(float(image_confidence[p]) >= threshold for p in valid) / len(valid)
        for y, x in valid:
            scores = [float(score) for score in image_logits[:, y, x]]
            normaliser = math.log(sum(math.exp(score) for score in scores))
            weight = share if weight_by == 'image' else float(image_confidence[y, x]) >= threshold
            label = int(image_labels[y, x])
            entropy = normaliser - scores[label]
            terms.append(weight * class_weight[label] * entropy)
            weights.append(class_weight[label] if average == 'valid' or entropy > 0 else 0)
    return sum(terms) / (sum(weights) or 1)


def make_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 5, 6), generator=generator)
    labels[torch.rand(3, 5, 6, generator=generator) < 0.3] = 255
    labels[2] = 255
    confidence = torch.rand(3, 5, 6, generator=generator)
    # Fitted to the last bit: the loss of this pixel is exactly 0.
    labels[0, 0, 0] = 1
    logits[0, :, 0, 0] = torch.tensor([0., 800., 0., 0.])
    return logits, labels, confidence


@pytest.mark.parametrize('average', ['valid', 'positive'])
@pytest.mark.parametrize('weight_by', ['image', 'pixel'])
@pytest.mark.parametrize('class_weight', [(1, 1, 1, 1), (0.5, 0.25, 4, 2),
                                          (1e-3, 2e-3, 3e-3, 4e-3)])
def test_equals_the_loop(average, weight_by, class_weight):
    logits, labels, confidence = make_batch()
    logits[0, :, 0, 0] /= 10  # the loop's exp overflows at 800
    loss = PseudoLabelLoss(
        0.6, average, weight_by=weight_by, class_weight=class_weight)(logits, labels, confidence)
    expected = loop_loss(logits, labels, confidence, 0.6, average, weight_by, class_weight)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_another_ignore_index_gives_the_same():
    logits, labels, confidence = make_batch()
    logits[:, 3] = -1e3  # nothing is of class 3, so that it may stand for no class
    labels[labels == 3] = 2
    expected = PseudoLabelLoss(0.6)(logits, labels, confidence)
    loss = PseudoLabelLoss(0.6, ignore_index=3)
    assert loss(logits, labels.masked_fill(labels == 255, 3), confidence) == expected > 0


def test_class_weights_are_not_in_a_checkpoint():
    assert not PseudoLabelLoss(class_weight=[1, 2]).state_dict()


def test_the_published_average_counts_images_without_a_confident_pixel():
    """As masked_select(share * loss, loss > 0) does, in the authors' code."""
    logits, labels, confidence = make_batch()
    confidence[1] = 0
    loss = F.cross_entropy(logits, labels, ignore_index=255, reduction='none')
    share = torch.stack([(image[label != 255] >= 0.6).double().mean()
                         for image, label in zip(confidence[:2], labels[:2], strict=True)])
    expected = (share[:, None, None] * loss[:2])[loss[:2] > 0].mean()
    assert share[1] == 0 and (loss[1] > 0).any()
    torch.testing.assert_close(
        PseudoLabelLoss(0.6, 'positive')(logits, labels, confidence).double(), expected)


def test_averages_differ_where_a_pixel_is_fitted():
    logits, labels, confidence = make_batch()
    valid, positive = (PseudoLabelLoss(0.6, average)(logits, labels, confidence)
                       for average in ('valid', 'positive'))
    assert positive > valid > 0


def test_threshold_includes_itself_and_weight_scales():
    """The share in the log is the mean over images: here of 1/2 and 1."""
    logits, labels = torch.zeros(2, 2, 1, 2), torch.zeros(2, 1, 2, dtype=torch.long)
    confidence = torch.tensor([[[0.5, 0.25]], [[0.5, 0.5]]])
    loss = PseudoLabelLoss(strong_threshold=0.5, loss_weight=3)
    assert loss(logits, labels, confidence).item() == pytest.approx(3 * 0.75 * math.log(2))
    assert loss.diagnostics['confident_share'].item() == 0.75


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_lose_only_their_own_rounding(dtype):
    logits, labels, confidence = make_batch()
    logits, loss = logits.to(dtype), PseudoLabelLoss(0.6)
    value = loss(logits, labels, confidence)
    assert value > 0 and torch.equal(value, loss(logits.float(), labels, confidence))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_without_pseudo_labels_the_loss_is_zero_and_attached(dtype):
    logits = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    loss = PseudoLabelLoss()(logits, torch.full((2, 4, 4), 255), torch.ones(2, 4, 4))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize('argument, message', [
    (dict(strong_threshold=1.5), 'strong_threshold.*1.5'),
    (dict(average='mean'), "'valid' or 'positive', got 'mean'"),
    (dict(weight_by='batch'), "'image' or 'pixel', got 'batch'"),
    (dict(loss_weight=-1), 'loss_weight'),
    (dict(loss_name='unsup'), 'must contain "loss"'),
    (dict(class_weight=[1, -1]), 'class_weight must be >= 0.*-1'),
])
def test_bad_arguments_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabelLoss(**argument)


def test_weights_of_another_number_of_classes_are_refused():
    loss = PseudoLabelLoss(class_weight=[1, 2, 3])
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match='class_weight has 3 numbers, and the network 4 classes'):
        loss(torch.zeros(1, 4, 2, 2), labels, labels.float())
