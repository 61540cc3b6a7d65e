# Licensed under the Apache License, Version 2.0.
"""The ReCo loss in plain loops, written from the paper (ICLR 2022, section 3) alone.

It shares no code and no trick with ``mmseg_reco``: Python lists of pixels, one dot product at a
time, double precision. Besides a random draw of the loss it gives the loss of a *given* draw and
the *exact* mean over all draws, which needs no sampling: for positive X

    E[log X] = integral over t > 0 of (exp(-t) - E[exp(-t X)]) / t dt,

and with X = a + e_1 + ... + e_M, the e_k independent, E[exp(-t X)] is a product. With u = log t
the integrand is smooth and falls off fast on both sides, so the trapezoid rule is exact to
rounding. Everything is differentiable by autograd in the queries.
"""
import math
import random
from typing import NamedTuple

import torch
from torch import Tensor


class Scene(NamedTuple):
    """A mini-batch as lists; pixel ids count images, then rows, then columns.

    ``vectors[i]`` is the (D,) representation of pixel i (float64, attached to the input),
    ``members[c]`` the valid pixels of class c, ``hard[c]`` those of them with a predicted
    probability of c below the threshold, ``present`` the classes that have a valid pixel.
    """
    vectors: list[Tensor]
    members: list[list[int]]
    hard: list[list[int]]
    present: list[int]


def read_scene(embeddings: Tensor, labels: Tensor, probs: Tensor, strong_threshold: float,
               ignore_index: int = 255) -> Scene:
    """Sort (B, D, h, w) representations and (B, h, w) labels into a :class:`Scene`."""
    num_classes = probs.shape[1]
    vectors = []
    members = [[] for _ in range(num_classes)]
    hard = [[] for _ in range(num_classes)]
    batch, height, width = labels.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                pixel = len(vectors)
                vectors.append(embeddings[b, :, y, x].double())
                label = int(labels[b, y, x])
                if label == ignore_index or not 0 <= label < num_classes:
                    continue
                members[label].append(pixel)
                if float(probs[b, label, y, x]) < strong_threshold:
                    hard[label].append(pixel)
    present = [c for c in range(num_classes) if members[c]]
    return Scene(vectors, members, hard, present)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of two vectors; 0 if one of them is zero."""
    norms = a.norm() * b.norm()
    return (a * b).sum() / norms if norms.detach() > 0 else (a * b).sum()


def prototype(scene: Scene, c: int) -> Tensor:
    """Mean of all valid pixels of class c, without gradient."""
    total = torch.zeros_like(scene.vectors[0])
    for pixel in scene.members[c]:
        total = total + scene.vectors[pixel].detach()
    return total / len(scene.members[c])


def negative_class_probs(scene: Scene, c: int, temperature: float,
                         active: bool) -> dict[int, float]:
    """Chance of every other present class to give a negative key to a query of class c."""
    others = [q for q in scene.present if q != c]
    if not active:
        return {q: 1 / len(others) for q in others}
    weights = {q: math.exp(float(cosine(prototype(scene, c), prototype(scene, q))) / temperature)
               for q in others}
    return {q: weight / sum(weights.values()) for q, weight in weights.items()}


def query_pool(scene: Scene, c: int, active: bool) -> list[int]:
    """Pixels from which the queries of class c are drawn."""
    return scene.hard[c] if active else scene.members[c]


def query_loss(scene: Scene, query: int, c: int, keys: list[int], temperature: float) -> Tensor:
    """-log of the softmax share of the positive key, for one query and its negative keys."""
    vector = scene.vectors[query]
    positive = torch.exp(cosine(vector, prototype(scene, c)) / temperature)
    total = positive
    for key in keys:
        total = total + torch.exp(cosine(vector, scene.vectors[key].detach()) / temperature)
    return -torch.log(positive / total)


def loss_of_draw(scene: Scene, queries: dict[int, list[int]], keys: dict[int, list[list[int]]],
                 temperature: float) -> Tensor:
    """Loss of a given draw: ``queries[c]`` the pixels, ``keys[c][i]`` the negatives of the i-th.

    Classes without an entry add 0; the mean is over the present classes all the same.
    """
    loss = 0 * scene.vectors[0].sum()
    if len(scene.present) < 2:
        return loss
    for c in queries:
        class_loss = sum(query_loss(scene, query, c, keys[c][i], temperature)
                         for i, query in enumerate(queries[c])) / len(queries[c])
        loss = loss + class_loss / len(scene.present)
    return loss


def random_draw(scene: Scene, num_queries: int, num_negatives: int, temperature: float,
                rng: random.Random, active_query: bool = True, active_key: bool = True):
    """Draw ``(queries, keys)`` as :func:`loss_of_draw` takes them."""
    queries, keys = {}, {}
    for c in scene.present:
        pool = query_pool(scene, c, active_query)
        if not pool or len(scene.present) < 2:
            continue
        chances = negative_class_probs(scene, c, temperature, active_key)
        queries[c], keys[c] = [], []
        for _ in range(num_queries):
            queries[c].append(rng.choice(pool))
            classes = rng.choices(list(chances), list(chances.values()), k=num_negatives)
            keys[c].append([rng.choice(scene.members[q]) for q in classes])
    return queries, keys


def mean_query_loss(scene: Scene, query: int, c: int, num_negatives: int, temperature: float,
                    active_key: bool) -> Tensor:
    """Exact mean of :func:`query_loss` over all draws of the negative keys."""
    vector = scene.vectors[query]
    log_positive = cosine(vector, prototype(scene, c)) / temperature
    chances, terms = [], []
    for q, chance in negative_class_probs(scene, c, temperature, active_key).items():
        for key in scene.members[q]:
            chances.append(chance / len(scene.members[q]))
            terms.append(torch.exp(cosine(vector, scene.vectors[key].detach()) / temperature))
    chances, terms = torch.tensor(chances, dtype=torch.float64), torch.stack(terms)
    step = 0.1
    t = torch.exp(torch.arange(-45, 8, step, dtype=torch.float64))
    laplace = (torch.exp(-t[:, None] * terms) @ chances) ** num_negatives
    laplace = laplace * torch.exp(-t * torch.exp(log_positive))
    return step * (torch.exp(-t) - laplace).sum() - log_positive


def mean_loss(scene: Scene, num_negatives: int, temperature: float, active_query: bool = True,
              active_key: bool = True) -> Tensor:
    """Exact mean of the loss over all draws; the number of queries does not enter."""
    loss = 0 * scene.vectors[0].sum()
    if len(scene.present) < 2:
        return loss
    for c in scene.present:
        pool = query_pool(scene, c, active_query)
        for query in pool:
            loss = loss + mean_query_loss(scene, query, c, num_negatives, temperature,
                                          active_key) / len(pool) / len(scene.present)
    return loss
