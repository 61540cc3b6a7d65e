# Licensed under the Apache License, Version 2.0.

import torch.nn as nn
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from mmseg.utils import OptConfigType, OptMultiConfig
from torch import Tensor


@MODELS.register_module()
class Projector(BaseModule):
    """Representation head: 3×3 convolution, normalisation, ReLU, then 1×1 to D, as in ReCo.

    Args:
        in_channels (int): Channels of the features it reads.
        channels (int, optional): Channels of the 3×3 convolution; None leaves the 1×1 projection
            alone, as the paper's DeepLabV2 has it.
        embed_dims (int): D.
        norm_cfg (dict, optional): Normalisation; None for none.
        separable (bool): Make the 3×3 convolution depthwise separable, as the classifiers beside
            which it stands on slim encoders are. The paper's is not.
        init_cfg (dict, optional): Initialisation of the layers.
    """

    def __init__(self,
                 in_channels: int,
                 channels: int | None = 256,
                 embed_dims: int = 256,
                 norm_cfg: OptConfigType = dict(type='BN'),
                 separable: bool = False,
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        layers = []
        if channels is not None:
            conv = DepthwiseSeparableConvModule if separable else ConvModule
            layers.append(conv(in_channels, channels, 3, padding=1, norm_cfg=norm_cfg))
        layers.append(nn.Conv2d(channels or in_channels, embed_dims, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Project features (B, in_channels, h, w) to representations (B, D, h, w)."""
        return self.layers(features)
