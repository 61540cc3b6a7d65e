# Licensed under the Apache License, Version 2.0.
"""The set loss at sampled points against plain loops in float64."""
from itertools import permutations

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from tiny_segmentor import NUM_CLASSES, make_sample, query_segmentor_config

from mmseg_reco.models import QueryOutput

QUERIES, LABELS, POINTS = 5, (16, 24), 300


def build(**kwargs):
    """Without importance sampling the points of the loss are uniform, and can be drawn again."""
    config = query_segmentor_config('RegionMask2FormerHead').decode_head
    config.num_queries = QUERIES
    config.train_cfg.update(num_points=POINTS, **kwargs)
    return MODELS.build(config)


def random_labels():
    """Columns of classes with blocks of ignored pixels, and one class absent from one image."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(LABELS[1]) // 6).repeat(2, LABELS[0], 1)
    labels[1, :, :6] = 1
    blocks = torch.rand(2, 4, 6, generator=generator) < 1 / 3
    return labels.masked_fill(blocks.repeat_interleave(4, 1).repeat_interleave(4, 2), 255)


def sample(image, points):
    """Bilinear interpolation of (h, w) at (x, y) in [0, 1], zeros outside; and the pixels used."""
    height, width = image.shape
    values, used = [], []
    for x, y in points:
        x, y = x * width - 0.5, y * height - 0.5
        value, pixels = 0., []
        for i in (int(np.floor(y)), int(np.floor(y)) + 1):
            for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= i < height and 0 <= j < width:
                    value += image[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
                    pixels.append((i, j))
        values.append(value)
        used.append(pixels)
    return np.array(values), used


def costs(logits, labels, points, k):
    """Binary cross-entropy and Dice of a mask and class k, at points without an ignored pixel."""
    targets, used = sample(labels == k, points)
    labeled = np.array([all(labels[pixel] < 255 for pixel in pixels) for pixels in used])
    logits, targets = sample(logits, points)[0][labeled], targets[labeled]
    prob = 1 / (1 + np.exp(-logits))
    entropy = -(targets * np.log(prob) + (1 - targets) * np.log(1 - prob)).mean()
    return entropy, 1 - (2 * (prob * targets).sum() + 1) / (prob.sum() + targets.sum() + 1)


def oracle(class_logits, mask_logits, labels, seed):
    """Class, mask and Dice loss; the random numbers are drawn in the head's order."""
    torch.manual_seed(seed)
    points = [torch.rand(1, POINTS, 2)[0].double().numpy() for _ in labels]
    matches, class_sum, weight_sum = [], 0, 0
    for i in range(len(labels)):
        probs = np.exp(class_logits[i]) / np.exp(class_logits[i]).sum(1, keepdims=True)
        classes = [k for k in range(NUM_CLASSES) if (labels[i] == k).any()]
        cost = np.zeros((QUERIES, len(classes)))
        for q in range(QUERIES):
            for n, k in enumerate(classes):
                entropy, dice = costs(mask_logits[i, q], labels[i], points[i], k)
                cost[q, n] = -2 * probs[q, k] + 5 * entropy + 5 * dice
        queries = min(permutations(range(QUERIES), len(classes)),
                      key=lambda queries: sum(cost[q, n] for n, q in enumerate(queries)))
        matched = dict(zip(queries, classes, strict=True))
        matches += [(i, q, matched[q]) for q in sorted(matched)]
        for q in range(QUERIES):
            k = matched.get(q, NUM_CLASSES)
            weight = 0.1 if k == NUM_CLASSES else 1
            class_sum += weight * -np.log(probs[q, k])
            weight_sum += weight
    torch.rand(len(matches), POINTS, 2)  # candidates for importance, of which none is taken
    points = torch.rand(len(matches), POINTS, 2).double().numpy()
    pairs = [costs(mask_logits[i, q], labels[i], points[n], k)
             for n, (i, q, k) in enumerate(matches)]
    entropy, dice = np.mean(pairs, 0)
    return 2 * class_sum / weight_sum, 5 * entropy, 5 * dice


@pytest.mark.parametrize('shape', [LABELS, (4, 6)])
def test_set_loss_against_loops(shape):
    torch.manual_seed(0)
    class_logits, mask_logits = torch.randn(2, QUERIES, NUM_CLASSES + 1), torch.randn(
        2, QUERIES, *shape)
    head, labels = build(importance_sample_ratio=0., oversample_ratio=1.), random_labels()
    torch.manual_seed(5)
    losses = head.loss_by_regions(
        QueryOutput([class_logits], [mask_logits], None, None),
        [make_sample(x, LABELS) for x in labels])
    expected = oracle(
        class_logits.double().numpy(), mask_logits.double().numpy(), labels.numpy(), seed=5)
    for name, value in zip(('loss_cls', 'loss_mask', 'loss_dice'), expected, strict=True):
        np.testing.assert_allclose(losses[name].item(), value, rtol=1e-5)


def test_ignored_areas_take_no_points_for_being_uncertain():
    """Half of the image is ignored and undecided; the rest is certain."""
    head = build(importance_sample_ratio=0.75, oversample_ratio=3.)
    torch.manual_seed(0)
    logits, ignored = torch.full((2, 8, 12), 5.), torch.zeros(2, *LABELS, dtype=torch.bool)
    logits[:, 4:], ignored[:, 8:] = 0, True
    logits, targets, labeled = head._compare(logits, torch.ones_like(ignored).long(), ignored)
    assert logits.shape == targets.shape == labeled.shape == (2, POINTS)
    # All chosen ones, and half of those drawn blindly.
    assert labeled.float().mean() > 0.8
    assert (logits[labeled] > 0).all() and (targets[labeled] > 0).all()
