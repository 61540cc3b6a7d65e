# Licensed under the Apache License, Version 2.0.
import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_reco.utils import check_positive

from ..regions.overlap import mask_average_pool
from ..regions.structures import RegionPrediction, RegionTarget
from ..utils import unit_vectors
from .region_loss import RegionLoss, matched_contrast, on_student_regions


def region_feature_contrast(features: Tensor, teacher_features: Tensor, labels: Tensor,
                            match: Tensor, exists: Tensor, temperature: float,
                            same_class_negatives: bool = True,
                            cross_image_negatives: bool = False) -> tuple[Tensor, Tensor]:
    """InfoNCE on the cosine similarity of every student region with every teacher region.

    Args:
        features (Tensor): Feature of each student region; one of zero length is as similar to
            anything as orthogonal ones are, 0, and gets no gradient. Shape (B, N, C), float32 or
            float64.
        teacher_features (Tensor): Feature of each teacher region; finite or NaN for padding. Shape
            (B, T, C).
        labels (Tensor): Class of each teacher region. Shape (B, T), int64.
        match (Tensor): Student region of each teacher region; anything for padding. Shape (B, T),
            int64.
        exists (Tensor): False for padding. Shape (B, T), bool.
        temperature (float): > 0.
        same_class_negatives (bool): See :class:`RegionFeatureContrastiveLoss`.
        cross_image_negatives (bool): See :class:`RegionFeatureContrastiveLoss`.

    Returns:
        tuple[Tensor, Tensor]: Loss, and mean cosine of the matched pairs (detached).
    """
    batch, number = features.shape[:2]
    student = unit_vectors(features.flatten(0, 1)).view_as(features)
    teacher = unit_vectors(teacher_features.flatten(0, 1)).view_as(teacher_features)
    teacher = teacher.to(student.dtype)  # NaN in padding has become zero with the length
    # Class that the teacher gives to each student region; -1 for unmatched ones.
    classes = on_student_regions(labels[:, :, None], match, exists,
                                 labels.new_full((batch, number, 1), -1))[:, :, 0]

    similarity = teacher @ student.mT
    if not same_class_negatives:
        own = torch.arange(number, device=match.device) == match[:, :, None]
        same_class = classes[:, None] == labels[:, :, None]
        similarity = similarity.masked_fill(same_class & ~own, -torch.inf)
    if cross_image_negatives:
        images = torch.arange(batch, device=match.device)
        other_image = images[:, None] != images
        other_class = (classes >= 0) & (classes != labels[:, :, None, None])
        negative = other_image[:, None, :, None] & other_class
        others = torch.einsum('btc,dnc->btdn', teacher, student).masked_fill(~negative, -torch.inf)
        similarity = torch.cat([similarity, others.flatten(2)], 2)
    return matched_contrast(similarity, match, exists, temperature)


@MODELS.register_module()
class RegionFeatureContrastiveLoss(RegionLoss):
    r"""Region feature contrastive loss, RFC (RC²L).

    Published (Zhang et al., IJCAI 2022, arXiv 2204.13314): the idea, features of matched student
    and teacher regions, obtained by mask average pooling, attract each other, unmatched ones
    repel. Defined here, as this project's reconstruction: the formula,

    .. math:: -\frac{1}{N_t} \sum_i \log
        \frac{\exp(\cos(r_{\sigma(i)}, t_i) / \tau)}{\sum_j \exp(\cos(r_j, t_i) / \tau)}

    with region features :math:`r_j` of the student, all N of the image, and :math:`t_i` of the
    teacher (:func:`mask_average_pool`) and matching :math:`\sigma`; then the mean over the images
    in which the teacher has a region. The two switches are defined here as well.

    ``diagnostics['matched_similarity']`` is the cosine of matched pairs, averaged as the loss is;
    0 without any region.

    Args:
        temperature (float): :math:`\tau` > 0.
        same_class_negatives (bool): False leaves out of the sum the student regions, the positive
            aside, that are matched with a teacher region of the class of region i.
        cross_image_negatives (bool): True adds to the sum the student regions of the batch's other
            images (of this process) that are matched with a teacher region of another class.
        loss_weight (float): Factor of the loss, >= 0.
        loss_name (str): Name in the log; must contain "loss" to be optimised.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self,
                 temperature: float = 0.1,
                 same_class_negatives: bool = True,
                 cross_image_negatives: bool = False,
                 loss_weight: float = 1.0,
                 loss_name: str = 'loss_rfc') -> None:
        super().__init__(loss_weight, loss_name)
        check_positive(f'{type(self).__name__}: temperature', temperature)
        self.temperature = temperature
        self.same_class_negatives = same_class_negatives
        self.cross_image_negatives = cross_image_negatives

    def region_loss(self, student: RegionPrediction, teacher: RegionTarget) -> Tensor:
        """See :func:`region_feature_contrast`."""
        loss, similarity = region_feature_contrast(
            mask_average_pool(student.features, student.masks, teacher.valid),
            mask_average_pool(teacher.features, teacher.masks, teacher.valid),
            teacher.labels, teacher.match, teacher.exists, self.temperature,
            self.same_class_negatives, self.cross_image_negatives)
        self.diagnostics = dict(matched_similarity=similarity)
        return loss
