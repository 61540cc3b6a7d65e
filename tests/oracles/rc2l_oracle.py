# Licensed under the Apache License, Version 2.0.
"""The four RC²L losses in plain loops over Python floats, and random regions to ask them about.

Written from the formulas that the project defines (the paper, IJCAI 2022, publishes the ideas); it
shares no code with ``mmseg_reco`` but the two tuples that hold the tensors.
"""
import math

import torch

from mmseg_reco.models.regions.structures import RegionPrediction, RegionTarget


def random_regions(seed=0, batch=2, queries=5, regions=3, classes=4, channels=3, size=(4, 5),
                   valid_share=0.8, exists_share=0.6, dtype=torch.float64):
    """Student and teacher; regions overlap, repeat classes, miss here and there, may be empty."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    masks = rand(batch, queries, *size)
    masks[:, -1] *= rand(batch, *size) < 0.3
    student = RegionPrediction(
        masks=masks.to(dtype), features=(2 * rand(batch, channels, *size) - 1).to(dtype),
        semantic=rand(batch, classes, *size).to(dtype),
        class_logits=(6 * rand(batch, queries, classes + 1) - 3).to(dtype))
    valid = rand(batch, *size) < valid_share
    exists = rand(batch, regions) < exists_share
    match = rand(batch, queries).argsort(1)[:, :regions]
    teacher = RegionTarget(
        masks=((rand(batch, regions, *size) < 0.4) & valid[:, None] & exists[..., None, None])
        .to(dtype),
        labels=(rand(batch, regions) * classes).long(), exists=exists,
        features=(2 * rand(batch, channels, *size) - 1).to(dtype),
        semantic=(rand(batch, *size) * classes).long(), valid=valid, match=match,
        class_probs=(4 * rand(batch, regions, classes + 1)).softmax(2).to(dtype))
    return student, teacher


def _valid_pixels(teacher, image):
    height, width = teacher.valid.shape[1:]
    return [(y, x) for y in range(height) for x in range(width) if teacher.valid[image, y, x]]


def _values(plane, pixels):
    plane = plane.double().tolist()
    return [plane[y][x] for y, x in pixels]


def _regions(teacher, image):
    return [i for i, exists in enumerate(teacher.exists[image].tolist()) if exists]


def _mean(values):
    return sum(values) / len(values) if values else 0.


def dice(a, b):
    """(2 Σ a·b + 1) / (Σ a + Σ b + 1) of two lists."""
    return (2 * sum(p * q for p, q in zip(a, b, strict=True)) + 1) / (sum(a) + sum(b) + 1)


def cosine(a, b):
    """Cosine of two lists; 0 where one is zero."""
    norms = math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b))
    return sum(p * q for p, q in zip(a, b, strict=True)) / norms if norms else 0.


def pool(features, mask, pixels):
    """Σ M(x) F(x) / (Σ M(x) + ε) of a (C, h, w) map and a (h, w) mask."""
    weights = _values(mask, pixels)
    return [sum(w * f for w, f in zip(weights, _values(channel, pixels), strict=True)) /
            (sum(weights) + 1e-6) for channel in features]


def _contrast(positive, negatives, temperature):
    total = sum(math.exp(s / temperature) for s in [positive, *negatives])
    return -math.log(math.exp(positive / temperature) / total)


def rmc(student, teacher, temperature):
    """Region mask contrast: loss, and Dice of the matched pairs."""
    losses, overlaps = [], []
    for image in range(len(teacher.exists)):
        pixels = _valid_pixels(teacher, image)
        image_losses, image_overlaps = [], []
        for i in _regions(teacher, image):
            own = _values(teacher.masks[image, i], pixels)
            scores = [dice(_values(mask, pixels), own) for mask in student.masks[image]]
            positive = scores.pop(int(teacher.match[image, i]))
            image_losses.append(_contrast(positive, scores, temperature))
            image_overlaps.append(positive)
        if image_losses:
            losses.append(_mean(image_losses))
            overlaps.append(_mean(image_overlaps))
    return _mean(losses), _mean(overlaps)


def rfc(student, teacher, temperature, same_class_negatives=True, cross_image_negatives=False):
    """Region feature contrast: loss, and cosine of the matched pairs."""
    images = range(len(teacher.exists))
    vectors, classes = [], []
    for image in images:
        pixels = _valid_pixels(teacher, image)
        vectors.append([pool(student.features[image], mask, pixels)
                        for mask in student.masks[image]])
        classes.append({int(teacher.match[image, i]): int(teacher.labels[image, i])
                        for i in _regions(teacher, image)})
    losses, similarities = [], []
    for image in images:
        pixels = _valid_pixels(teacher, image)
        image_losses, image_similarities = [], []
        for i in _regions(teacher, image):
            anchor = pool(teacher.features[image], teacher.masks[image, i], pixels)
            own_class, matched = int(teacher.labels[image, i]), int(teacher.match[image, i])
            negatives = []
            for j, vector in enumerate(vectors[image]):
                same_class = classes[image].get(j) == own_class
                if j != matched and (same_class_negatives or not same_class):
                    negatives.append(cosine(vector, anchor))
            if cross_image_negatives:
                negatives += [cosine(vectors[other][j], anchor)
                              for other in images if other != image
                              for j, their_class in classes[other].items()
                              if their_class != own_class]
            positive = cosine(vectors[image][matched], anchor)
            image_losses.append(_contrast(positive, negatives, temperature))
            image_similarities.append(positive)
        if image_losses:
            losses.append(_mean(image_losses))
            similarities.append(_mean(image_similarities))
    return _mean(losses), _mean(similarities)


def rcc(student, teacher, no_object_weight, soft=False):
    """Region class consistency."""
    total = weights = 0.
    for image in range(len(teacher.exists)):
        matched = {int(teacher.match[image, i]): i for i in _regions(teacher, image)}
        if not matched:
            continue
        for j, logits in enumerate(student.class_logits[image].double().tolist()):
            normaliser = math.log(sum(math.exp(logit) for logit in logits))
            log_probs = [logit - normaliser for logit in logits]
            if j not in matched:
                total -= no_object_weight * log_probs[-1]
                weights += no_object_weight
                continue
            weights += 1
            if soft:
                targets = teacher.class_probs[image, matched[j]].double().tolist()
                total += sum(p * (math.log(p) - log_q)
                             for p, log_q in zip(targets, log_probs, strict=True) if p > 0)
            else:
                total -= log_probs[int(teacher.labels[image, matched[j]])]
    return total / weights if weights else 0.


def smc(student, teacher):
    """Semantic mask consistency."""
    losses = []
    for image in range(len(teacher.valid)):
        pixels = _valid_pixels(teacher, image)
        labels = [int(teacher.semantic[image, y, x]) for y, x in pixels]
        for k in sorted(set(labels)):
            scores = _values(student.semantic[image, k], pixels)
            losses.append(1 - dice(scores, [float(label == k) for label in labels]))
    return _mean(losses)
