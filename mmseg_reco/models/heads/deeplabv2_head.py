# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch.nn as nn
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor


class DilatedClassifier(nn.Module):
    """Sum of dilated 3×3 classifiers over the same features (B, in_channels, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
            for dilation in dilations)

    def forward(self, features: Tensor) -> Tensor:
        return sum(branch(features) for branch in self.branches)


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """DeepLabV2's atrous spatial pyramid: the paper's second network.

    Four dilated 3×3 classifiers read the backbone's features directly and are summed (arXiv
    1606.00915, as ReCo's authors implement it). They stand in ``conv_seg``, so the default tap
    reads the backbone's features.

    Args:
        dilations (Sequence[int]): One classifier each.
        **kwargs: Of :class:`mmseg.models.decode_heads.decode_head.BaseDecodeHead`; ``channels``
            follows ``in_channels``.
    """

    def __init__(self, dilations: Sequence[int] = (6, 12, 18, 24), **kwargs) -> None:
        kwargs.setdefault('dropout_ratio', 0)
        kwargs.setdefault('init_cfg', dict(type='Normal', layer='Conv2d', std=0.01))
        super().__init__(channels=kwargs['in_channels'], **kwargs)
        self.conv_seg = DilatedClassifier(self.in_channels, self.out_channels, dilations)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Logits (B, C, h, w) at the backbone's stride."""
        return self.cls_seg(self._transform_inputs(inputs))
