# Licensed under the Apache License, Version 2.0.
import torch
import torch.nn.functional as F
from mmcv.ops import point_sample
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.registry import MODELS
from torch import Tensor

from .region_query_head import RegionQueryHead


@MODELS.register_module()
class RegionMask2FormerHead(RegionQueryHead, Mask2FormerHead):
    """mmseg's Mask2Former head (arXiv 2112.01527) that hands out its regions.

    Checkpoints of the stock head load, and predictions are the same. Matching and loss look at
    sampled points. A point takes part if none of the pixels that its label is interpolated from is
    ignored (see :class:`RegionQueryHead`), so masks learn nothing from labelled pixels that have
    ignored neighbours all around, such as one pixel for each class: take
    :class:`RegionMaskFormerHead` for those.

    Args:
        **kwargs: Of :class:`mmseg.models.decode_heads.Mask2FormerHead`.

    Raises:
        ImportError: If mmdet is missing or of an unsupported version.
    """

    def _compare(self, logits: Tensor, targets: Tensor,
                 ignored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, most of them where the mask is uncertain."""
        from mmdet.models.utils import get_uncertain_point_coords_with_randomness
        with torch.no_grad():
            # An ignored area is never taught, stays uncertain, and would take most of the points.
            hidden = F.interpolate(ignored[:, None].float(), logits.shape[-2:]) > 0
            points = get_uncertain_point_coords_with_randomness(
                logits[:, None].masked_fill(hidden, 1e4), None, self.num_points,
                self.oversample_ratio, self.importance_sample_ratio)
            targets, ignored = (
                point_sample(x[:, None].to(logits), points)[:, 0] for x in (targets, ignored))
        return point_sample(logits[:, None], points)[:, 0], targets, ignored == 0

    def _mask_loss(self, logits: Tensor, targets: Tensor, weights: Tensor,
                   num_masks: Tensor) -> Tensor:
        """Binary cross-entropy."""
        return self.loss_mask(logits, targets, weights, avg_factor=num_masks)
