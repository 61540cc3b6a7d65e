# Licensed under the Apache License, Version 2.0.
import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_reco.utils import check_positive

from ..regions.overlap import pairwise_dice
from ..regions.structures import RegionPrediction, RegionTarget
from .region_loss import RegionLoss, matched_contrast


def region_mask_contrast(masks: Tensor, teacher_masks: Tensor, valid: Tensor, match: Tensor,
                         exists: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE on the soft Dice of every student mask with every teacher mask of its image.

    Args:
        masks (Tensor): Of the student, in [0, 1]. Shape (B, N, h, w).
        teacher_masks (Tensor): In [0, 1]; anything for padding. Shape (B, T, h, w).
        valid (Tensor): Pixels that take part. Shape (B, h, w), bool.
        match (Tensor): Student region of each teacher region; anything for padding. Shape (B, T),
            int64.
        exists (Tensor): False for padding. Shape (B, T), bool.
        temperature (float): > 0.

    Returns:
        tuple[Tensor, Tensor]: Loss, and mean Dice of the matched pairs (detached).
    """
    teacher_masks = torch.where(exists[:, :, None, None], teacher_masks, 0)
    dice = pairwise_dice(masks, teacher_masks, valid)
    return matched_contrast(dice, match, exists, temperature)


@MODELS.register_module()
class RegionMaskContrastiveLoss(RegionLoss):
    r"""Region mask contrastive loss, RMC (RC²L).

    Published (Zhang et al., IJCAI 2022, arXiv 2204.13314): the idea, masks of matched student and
    teacher regions attract each other, unmatched ones repel. Defined here, as this project's
    reconstruction: the formula,

    .. math:: -\frac{1}{N_t} \sum_i \log
        \frac{\exp(d(M_{\sigma(i)}, m_i) / \tau)}{\sum_j \exp(d(M_j, m_i) / \tau)}

    with student masks :math:`M_j`, all N of the image, teacher masks :math:`m_i`, matching
    :math:`\sigma` and soft Dice d (:func:`pairwise_dice`); then the mean over the images in which
    the teacher has a region.

    The loss is relative: it can be low while the masks hardly overlap. The absolute overlap stands
    in ``diagnostics['matched_dice']``, the Dice of matched pairs, averaged as the loss is; 0
    without any region.

    Args:
        temperature (float): :math:`\tau` > 0.
        loss_weight (float): Factor of the loss, >= 0.
        loss_name (str): Name in the log; must contain "loss" to be optimised.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self,
                 temperature: float = 0.1,
                 loss_weight: float = 1.0,
                 loss_name: str = 'loss_rmc') -> None:
        super().__init__(loss_weight, loss_name)
        check_positive(f'{type(self).__name__}: temperature', temperature)
        self.temperature = temperature

    def region_loss(self, student: RegionPrediction, teacher: RegionTarget) -> Tensor:
        """See :func:`region_mask_contrast`."""
        loss, dice = region_mask_contrast(student.masks, teacher.masks, teacher.valid,
                                          teacher.match, teacher.exists, self.temperature)
        self.diagnostics = dict(matched_dice=dice)
        return loss
