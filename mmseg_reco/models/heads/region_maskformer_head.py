# Licensed under the Apache License, Version 2.0.
import torch.nn.functional as F
from mmseg.models.decode_heads import MaskFormerHead
from mmseg.registry import MODELS
from torch import Tensor

from .region_query_head import RegionQueryHead


@MODELS.register_module()
class RegionMaskFormerHead(RegionQueryHead, MaskFormerHead):
    """mmseg's MaskFormer head (arXiv 2107.06278) that hands out its regions.

    Checkpoints of the stock head load, and predictions are the same. Ignored pixels take no part
    in matching and loss; see :class:`RegionQueryHead`. Masks are matched at their own resolution,
    to labels brought there by nearest neighbour: of very sparse labels little is left there, so
    that the classes decide.

    Args:
        **kwargs: Of :class:`mmseg.models.decode_heads.MaskFormerHead`.

    Raises:
        ImportError: If mmdet is missing or of an unsupported version.
    """

    def _compare(self, logits: Tensor, targets: Tensor,
                 ignored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Every pixel of the labels."""
        logits = F.interpolate(logits[:, None], targets.shape[-2:], mode='bilinear')
        return logits.flatten(1), targets.flatten(1), ~ignored.flatten(1)

    def _mask_loss(self, logits: Tensor, targets: Tensor, weights: Tensor,
                   num_masks: Tensor) -> Tensor:
        """Focal loss of one class, which has index 0: hence 1 - target."""
        return self.loss_mask(logits[:, None], 1 - targets, weights, avg_factor=num_masks)
