# Licensed under the Apache License, Version 2.0.
"""Regions as RC²L's losses take them: this project's reconstruction of the paper."""
from typing import NamedTuple

from torch import Tensor


class RegionPrediction(NamedTuple):
    """What the student sees as regions.

    N regions an image: the queries of a mask-classification head, or one for each of the K classes
    of a per-pixel head.

    Attributes:
        masks (Tensor): Soft masks in [0, 1]. Shape (B, N, h, w).
        features (Tensor): Map that region features are pooled from. Shape (B, C, h, w).
        semantic (Tensor): Score of each class at each pixel, in [0, 1] (sum over queries of class
            probability times mask, divided by the sum of all where that is above 1; the
            probabilities of a per-pixel head). Shape (B, K, h, w).
        class_logits (Tensor, optional): Of each query, the last being "no object"; None for a
            per-pixel head. Shape (B, N, K + 1).
    """

    masks: Tensor
    features: Tensor
    semantic: Tensor
    class_logits: Tensor | None = None


class RegionTarget(NamedTuple):
    """What the teacher sees as regions, in the geometry of the student's view, without gradient.

    Padded to T regions an image, the same T for the whole batch, T <= N.

    Attributes:
        masks (Tensor): 1 inside, 0 outside and on pixels that are not valid; all 0 for padding.
            Shape (B, T, h, w), floating point.
        labels (Tensor): Class of each region, in [0, K). Shape (B, T), int64.
        exists (Tensor): False for padding. Shape (B, T), bool.
        features (Tensor): Map that region features are pooled from. Shape (B, C, h, w).
        semantic (Tensor): Class of each pixel, in [0, K); anything where not valid. Shape
            (B, h, w), int64.
        valid (Tensor): Pixels that take part: neither ignored nor below the threshold. Shape
            (B, h, w), bool.
        match (Tensor): The student's region that each region is matched with, in [0, N); anything
            for padding. No two existing regions of an image share one. Shape (B, T), int64.
        class_probs (Tensor, optional): Soft class distribution, the last being "no object"; None
            where the source has none. Shape (B, T, K + 1).
    """

    masks: Tensor
    labels: Tensor
    exists: Tensor
    features: Tensor
    semantic: Tensor
    valid: Tensor
    match: Tensor
    class_probs: Tensor | None = None
