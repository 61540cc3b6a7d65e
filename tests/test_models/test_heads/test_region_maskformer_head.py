# Licensed under the Apache License, Version 2.0.
"""The set loss against plain loops in float64, and against the stock head on a crop."""
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from tiny_segmentor import NUM_CLASSES, make_sample, query_segmentor_config

from mmseg_reco.models import QueryOutput

QUERIES, LABELS = 5, (16, 24)


def build(head='RegionMaskFormerHead'):
    config = query_segmentor_config(head).decode_head
    config.num_queries = QUERIES
    return MODELS.build(config)


def leaves(shape):
    """Two images, one decoder layer."""
    torch.manual_seed(0)
    classes = torch.randn(2, QUERIES, NUM_CLASSES + 1)
    masks = 2 * torch.randn(2, QUERIES, *shape)
    return QueryOutput([classes.requires_grad_()], [masks.requires_grad_()], classes, masks)


def random_labels():
    """Columns of classes, a third of the pixels ignored, and one class absent from one image."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(LABELS[1]) // 6).repeat(2, LABELS[0], 1)
    labels[1, :, :6] = 1
    return labels.masked_fill(torch.rand(2, *LABELS, generator=generator) < 1 / 3, 255)


def costs(logits, inside):
    """Focal and Dice cost of one query's mask with one class's, over the pixels given."""
    prob = 1 / (1 + np.exp(-logits))
    focal = [0.25 * (1 - p)**2 * -np.log(p) if t else 0.75 * p**2 * -np.log(1 - p)
             for p, t in zip(prob, inside, strict=True)]
    dice = 1 - (2 * prob[inside].sum() + 1) / (prob.sum() + inside.sum() + 1)
    return np.mean(focal), dice


def oracle(output, labels):
    """Class, mask and Dice loss by loops over images, permutations, masks and pixels."""
    class_logits = output.class_logits[0].detach().double().numpy()
    small = output.mask_logits[0].detach().double()
    step = LABELS[0] // small.shape[2]
    large = F.interpolate(small, LABELS, mode='bilinear').numpy()
    small, labels = small.numpy(), labels.numpy()
    class_sum, weight_sum, mask_losses, dice_losses = 0, 0, [], []
    for i in range(len(labels)):
        probs = np.exp(class_logits[i]) / np.exp(class_logits[i]).sum(1, keepdims=True)
        near = labels[i, ::step, ::step]
        classes = [k for k in range(NUM_CLASSES) if (labels[i] == k).any()]
        best, matched = np.inf, None
        for queries in permutations(range(QUERIES), len(classes)):
            cost = 0
            for q, k in zip(queries, classes, strict=True):
                focal, dice = costs(small[i, q][near < 255], near[near < 255] == k)
                cost += -probs[q, k] + 20 * focal + dice
            if cost < best:
                best, matched = cost, dict(zip(queries, classes, strict=True))
        for q in range(QUERIES):
            k = matched.get(q, NUM_CLASSES)
            weight = 0.1 if k == NUM_CLASSES else 1
            class_sum += weight * -np.log(probs[q, k])
            weight_sum += weight
        for q, k in matched.items():
            labeled = labels[i] < 255
            focal, dice = costs(large[i, q][labeled], labels[i][labeled] == k)
            mask_losses.append(20 * focal)
            dice_losses.append(dice)
    return class_sum / weight_sum, np.mean(mask_losses), np.mean(dice_losses)


@pytest.mark.parametrize('shape', [LABELS, (8, 12)])
def test_set_loss_against_loops(shape):
    output, labels = leaves(shape), random_labels()
    losses = build().loss_by_regions(output, [make_sample(x, LABELS) for x in labels])
    expected = oracle(output, labels)
    for name, value in zip(('loss_cls', 'loss_mask', 'loss_dice'), expected, strict=True):
        np.testing.assert_allclose(losses[name].item(), value, rtol=1e-5)


@pytest.mark.parametrize('width', [24, 18, 7])
def test_ignored_columns_are_as_if_cut_off(width):
    """The stock head on the labelled columns alone, gradients included."""
    output, labels = leaves(LABELS), random_labels()
    labels = torch.where(labels == 255, 2, labels)
    cut = QueryOutput([output.class_logits[0].detach().requires_grad_()],
                      [output.mask_logits[0].detach()[..., :width].requires_grad_()], *output[2:])
    stock = build('MaskFormerHead')
    expected = stock.loss_by_feat(
        *cut[:2], *stock._seg_data_to_instance_data(
            [make_sample(x[:, :width], (LABELS[0], width)) for x in labels]))
    labels[:, :, width:] = 255
    losses = build().loss_by_regions(output, [make_sample(x, LABELS) for x in labels])
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name].squeeze())
    sum(expected.values()).backward()
    sum(losses.values()).backward()
    torch.testing.assert_close(output.class_logits[0].grad, cut.class_logits[0].grad)
    grad = output.mask_logits[0].grad
    torch.testing.assert_close(grad[..., :width], cut.mask_logits[0].grad)
    assert not grad[..., width:].any()
