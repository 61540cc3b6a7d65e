# Licensed under the Apache License, Version 2.0.
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_reco.utils import check_not_negative

from ..regions.overlap import at_least_float32
from ..regions.structures import RegionPrediction, RegionTarget
from ..utils import global_avg_factor
from .region_loss import RegionLoss, on_student_regions


def region_class_consistency(class_logits: Tensor, class_probs: Tensor, match: Tensor,
                             exists: Tensor, no_object_weight: float) -> Tensor:
    """KL divergence of the queries' classes from the teacher's, which is cross-entropy if one-hot.

    Args:
        class_logits (Tensor): Of each query, the last being "no object". Shape (B, N, K + 1).
        class_probs (Tensor): Class distribution of each teacher region; anything for padding.
            Shape (B, T, K + 1).
        match (Tensor): Query of each teacher region; anything for padding. Shape (B, T), int64.
        exists (Tensor): False for padding. Shape (B, T), bool.
        no_object_weight (float): Weight of unmatched queries, whose target is "no object", >= 0.

    Returns:
        Tensor: Weighted mean over the queries of all images, of all ranks
        (:func:`global_avg_factor`), in which the teacher has a region; 0, attached to the graph,
        where it has none at all.
    """
    log_probs = at_least_float32(class_logits).log_softmax(2)
    no_object = torch.zeros_like(log_probs)
    no_object[:, :, -1] = 1
    target = on_student_regions(class_probs.to(log_probs.dtype), match, exists, no_object)
    unmatched = torch.ones_like(no_object[:, :, :1])
    weight = on_student_regions(exists[:, :, None].to(log_probs.dtype), match, exists,
                                no_object_weight * unmatched)[:, :, 0]
    weight = weight * exists.any(1, keepdim=True)
    divergence = F.kl_div(log_probs, target, reduction='none').sum(2)
    return (weight * divergence).sum() / global_avg_factor(weight.sum())


@MODELS.register_module()
class RegionClassConsistencyLoss(RegionLoss):
    """Region class consistency loss, RCC (RC²L).

    Published (Zhang et al., IJCAI 2022, arXiv 2204.13314): the idea, matched student and teacher
    regions agree on the class. Defined here, as this project's reconstruction: cross-entropy of
    the class logits of each matched query to the class of its teacher region, and of unmatched
    queries to "no object" with a smaller weight; the weighted mean over the queries of the batch.

    Images in which the teacher has no region take no part: they would teach every query "no
    object" where the teacher is merely unsure.

    Needs a query head (MaskFormer, Mask2Former): a per-pixel head has no class logits of regions.

    Args:
        no_object_weight (float): Weight of unmatched queries, >= 0; matched ones weigh 1.
        soft (bool): True takes the KL divergence from the teacher's class distribution for matched
            queries, instead of cross-entropy to its top class. Needs ``class_probs`` of the
            target, which regions from the teacher's queries have.
        loss_weight (float): Factor of the loss, >= 0.
        loss_name (str): Name in the log; must contain "loss" to be optimised.

    Raises:
        ValueError: If an argument is out of its range, or at the first forward pass if the head
            has no queries or the target no class distribution for ``soft``.
    """

    needs_queries = True

    def __init__(self,
                 no_object_weight: float = 0.1,
                 soft: bool = False,
                 loss_weight: float = 1.0,
                 loss_name: str = 'loss_rcc') -> None:
        super().__init__(loss_weight, loss_name)
        check_not_negative('RegionClassConsistencyLoss: no_object_weight', no_object_weight)
        self.no_object_weight = no_object_weight
        self.soft = self.needs_class_probs = soft

    def region_loss(self, student: RegionPrediction, teacher: RegionTarget) -> Tensor:
        """See :func:`region_class_consistency`."""
        if student.class_logits is None:
            raise ValueError(
                'RegionClassConsistencyLoss needs class logits of queries, which a per-pixel head '
                'does not have: use a query head (MaskFormer, Mask2Former), or remove '
                "dict(type='RegionClassConsistencyLoss') from `losses`")
        if self.soft:
            if teacher.class_probs is None:
                raise ValueError(
                    'RegionClassConsistencyLoss: soft=True needs the class distribution of each '
                    "teacher region, which only regions from queries have: set "
                    "region_source='query', or soft=False")
            class_probs = teacher.class_probs
        else:
            classes = torch.arange(student.class_logits.size(2), device=teacher.labels.device)
            class_probs = teacher.labels[:, :, None] == classes
        return region_class_consistency(student.class_logits, class_probs, teacher.match,
                                        teacher.exists, self.no_object_weight)
