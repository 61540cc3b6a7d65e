# Licensed under the Apache License, Version 2.0.
import torch
from mmseg.registry import MODELS
from torch import Tensor

from ..regions.overlap import at_least_float32, soft_dice
from ..regions.structures import RegionPrediction, RegionTarget
from ..utils import global_avg_factor
from .region_loss import RegionLoss


def semantic_mask_consistency(scores: Tensor, semantic: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice of the student's score map of a class and the teacher's pixels of that class.

    Args:
        scores (Tensor): Of each class, in [0, 1]. Shape (B, K, h, w).
        semantic (Tensor): Teacher's class of each pixel; anything where not valid. Shape
            (B, h, w), int64.
        valid (Tensor): Pixels that take part. Shape (B, h, w), bool.

    Returns:
        Tensor: Mean over the pairs, of all ranks (:func:`global_avg_factor`), of an image and a
        class that the teacher sees in it; 0, attached to the graph, where there is none.
    """
    classes = torch.arange(scores.size(1), device=semantic.device)
    target = (semantic[:, None] == classes[:, None, None]) & valid[:, None]
    scores = at_least_float32(scores)
    overlap = torch.where(target, scores, 0).flatten(2).sum(2)
    area = torch.where(valid[:, None], scores, 0).flatten(2).sum(2)
    teacher_area = target.flatten(2).sum(2)
    present = teacher_area > 0
    losses = torch.where(present, 1 - soft_dice(overlap, area, teacher_area), 0)
    return losses.sum() / global_avg_factor(present.sum())


@MODELS.register_module()
class SemanticMaskConsistencyLoss(RegionLoss):
    """Semantic mask consistency loss, SMC (RC²L).

    Published (Zhang et al., IJCAI 2022, arXiv 2204.13314): the idea, the unions of the regions of
    one class agree between student and teacher. Defined here, as this project's reconstruction:
    the mean, over each image and class among the teacher's valid pixels, of 1 - d, where d is the
    soft Dice (:func:`soft_dice`) of the student's score map of the class and the pixels that the
    teacher gives to it.

    Runs on any head: it needs neither queries nor matching.

    Args:
        loss_weight (float): Factor of the loss, >= 0.
        loss_name (str): Name in the log; must contain "loss" to be optimised.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = 'loss_smc') -> None:
        super().__init__(loss_weight, loss_name)

    def region_loss(self, student: RegionPrediction, teacher: RegionTarget) -> Tensor:
        """See :func:`semantic_mask_consistency`."""
        return semantic_mask_consistency(student.semantic, teacher.semantic, teacher.valid)
