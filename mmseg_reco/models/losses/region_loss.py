# Licensed under the Apache License, Version 2.0.
"""What the RC²L losses share: their interface, and the contrast of matched regions.

The formulas are this project's reconstruction of the paper (arXiv 2204.13314).
"""
import torch
import torch.nn as nn
from torch import Tensor

from mmseg_reco.utils import check_loss

from ..regions.structures import RegionPrediction, RegionTarget
from ..utils import global_avg_factor


class RegionLoss(nn.Module):
    """A loss between the student's regions and the teacher's.

    A subclass writes :meth:`region_loss`; this class detaches the teacher, keeps autocast out and
    applies the weight. With several processes the averages run over the regions of all ranks, which
    must all call the loss in every step. After each forward pass ``diagnostics`` holds what the
    loss reports of itself on this rank, detached and on the device.

    Args:
        loss_weight (float): Factor of the loss, >= 0.
        loss_name (str): Name in the log; must contain "loss" to be optimised.

    Raises:
        ValueError: If an argument is out of its range.
    """

    #: Whether the student must classify queries.
    needs_queries = False
    #: Whether the teacher's regions must have a class distribution, as queries have.
    needs_class_probs = False

    def __init__(self, loss_weight: float, loss_name: str) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        check_loss(self)
        self.diagnostics: dict[str, Tensor] = dict()

    def forward(self, student: RegionPrediction, teacher: RegionTarget) -> Tensor:
        """Weighted loss.

        Args:
            student (RegionPrediction): With gradient, any float dtype.
            teacher (RegionTarget): Used without gradient.

        Returns:
            Tensor: Scalar, float32 (float64 for a float64 student), attached to the graph through
            everything of the student that the loss reads, even where it is 0.
        """
        teacher = RegionTarget._make(
            field if field is None else field.detach() for field in teacher)
        with torch.autocast(student.masks.device.type, enabled=False):
            return self.loss_weight * self.region_loss(student, teacher)

    def region_loss(self, student: RegionPrediction, teacher: RegionTarget) -> Tensor:
        """The loss before its weight, a scalar; sets ``diagnostics``."""
        raise NotImplementedError


def on_student_regions(values: Tensor, match: Tensor, exists: Tensor, default: Tensor) -> Tensor:
    """Give each student region what belongs to the teacher region that it is matched with.

    Args:
        values (Tensor): Of the teacher's regions. Shape (B, T, D).
        match (Tensor): See :class:`RegionTarget`. Shape (B, T), int64.
        exists (Tensor): Shape (B, T), bool.
        default (Tensor): What unmatched student regions get, of the dtype of ``values``. Shape
            (B, N, D).

    Returns:
        Tensor: Shape (B, N, D).
    """
    # Padding goes to one column more, which is then dropped.
    slots = torch.where(exists, match, default.size(1))[:, :, None].expand_as(values)
    return torch.cat([default, default[:, :1]], 1).scatter(1, slots, values)[:, :-1]


def mean_of_regions(values: Tensor, exists: Tensor) -> Tensor:
    """Mean over the regions of each image.

    Args:
        values (Tensor): Shape (B, T).
        exists (Tensor): Shape (B, T), bool.

    Returns:
        Tensor: 0, attached to the graph, for an image without regions. Shape (B,).
    """
    return torch.where(exists, values, 0).sum(1) / exists.sum(1).clamp_min(1)


def matched_contrast(similarity: Tensor, match: Tensor, exists: Tensor,
                     temperature: float) -> tuple[Tensor, Tensor]:
    r"""InfoNCE of each teacher region, its match being the positive.

    .. math:: -\log \frac{\exp(s_{i\sigma(i)} / \tau)}{\sum_j \exp(s_{ij} / \tau)}

    Args:
        similarity (Tensor): Of each teacher region with N student regions; ``-inf`` leaves a pair
            out of the sum. Shape (B, T, N), float32 or float64.
        match (Tensor): The positive, :math:`\sigma(i)`; anything for padding. Shape (B, T), int64.
        exists (Tensor): Shape (B, T), bool.
        temperature (float): :math:`\tau` > 0.

    Returns:
        tuple[Tensor, Tensor]: Loss, and similarity of the matched pairs (detached). Both are the
        mean over the regions of an image, then over the images that have a region: the loss over
        those of all ranks (:func:`global_avg_factor`), the similarity over those of this one; 0,
        attached to the graph, where there is none.
    """
    positive = similarity.gather(2, match.masked_fill(~exists, 0)[:, :, None])[:, :, 0]
    losses = (similarity / temperature).logsumexp(2) - positive / temperature
    images = exists.any(1).sum()
    return (mean_of_regions(losses, exists).sum() / global_avg_factor(images),
            mean_of_regions(positive.detach(), exists).sum() / images.clamp_min(1))
