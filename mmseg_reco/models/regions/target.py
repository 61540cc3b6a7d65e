# Licensed under the Apache License, Version 2.0.
from collections.abc import Callable

import torch
from torch import Tensor

from ..utils import take_nearest
from .extraction import keep_largest, look_up, mix_regions, query_regions, semantic_regions
from .structures import RegionPrediction, RegionTarget


@torch.no_grad()
def region_target(student: RegionPrediction, teacher: RegionPrediction, semantic: Tensor,
                  valid: Tensor, origin: Tensor, weak_size: tuple[int, int], source: str,
                  threshold: float, min_area: int, matcher: Callable) -> RegionTarget:
    """The teacher's regions, brought into the student's view and matched with the student's.

    A reconstruction: RC²L publishes that regions are matched, not how they are found or mixed.

    Args:
        student (RegionPrediction): Of the strong views.
        teacher (RegionPrediction): Of the weak views.
        semantic (Tensor): The teacher's label of each pixel of the strong views. Shape (B, H, W),
            int64.
        valid (Tensor): Pixels that take part. Shape (B, H, W), bool.
        origin (Tensor): See :class:`PseudoBatch`. Shape (B, H, W), int64.
        weak_size (tuple[int, int]): Height and width of the weak views.
        source (str): 'query' for a region of each confident query of the teacher, 'semantic' for
            one of each class of its label map.
        threshold (float): Class probability above which a query counts, in [0, 1].
        min_area (int): Regions must be larger, in pixels of the student's masks; >= 0.
        matcher (Callable): :class:`HungarianMatcher`, called for a student with queries; per-pixel
            regions are matched class by class.

    Returns:
        RegionTarget: At the resolution of the student's masks.
    """
    size = (student.masks.size(-2), student.masks.size(-1))
    semantic, valid, origin = (take_nearest(maps, size) for maps in (semantic, valid, origin))
    if source == 'query':
        class_probs = teacher.class_logits.float().softmax(-1)
        masks, labels = query_regions(teacher.masks, class_probs, threshold)
        masks, labels, class_probs = mix_regions(masks, labels, class_probs, origin, weak_size)
        masks = masks * valid[:, None]
    else:
        masks, labels = semantic_regions(semantic, valid, student.semantic.size(1))
        class_probs = None
    masks, labels, class_probs = keep_largest(masks, labels, class_probs, student.masks.size(1))

    exists = masks.flatten(2).sum(2) > min_area
    masks = masks * exists[..., None, None]
    if student.class_logits is None:
        match = labels
    else:
        match = matcher(student.class_logits, student.masks, masks, labels, exists, valid)
    return RegionTarget(masks, labels, exists, look_up(teacher.features, origin, weak_size),
                        semantic, valid, match, class_probs)
