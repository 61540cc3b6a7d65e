# Licensed under the Apache License, Version 2.0.
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS

from mmseg_reco.utils import unwrap


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class StudentOptimWrapperConstructor:
    """Lets a stock constructor see the student alone, as the segmentor that it knows.

    Constructors that tell the depth of a layer from its name, for a learning rate that decays
    towards the first layers (``LearningRateDecayOptimizerConstructor`` for BEiT, MAE and ConvNeXt),
    know ``backbone.…``, not ``student.backbone.…``.

    Args:
        optim_wrapper_cfg (dict): Handed on.
        paramwise_cfg (dict): ``constructor``, the type of the stock constructor; all else is its
            own ``paramwise_cfg``.

    Raises:
        ValueError: If no constructor is named.

    Examples:
        >>> optim_wrapper = dict(
        >>>     type='OptimWrapper', optimizer=dict(type='AdamW', lr=3e-5, weight_decay=0.05),
        >>>     constructor='StudentOptimWrapperConstructor',
        >>>     paramwise_cfg=dict(constructor='LearningRateDecayOptimizerConstructor',
        >>>                        decay_type='layer_wise_vit', decay_rate=0.9, num_layers=12))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        if 'constructor' not in paramwise_cfg:
            raise ValueError('StudentOptimWrapperConstructor: name the constructor of the stock '
                             'config as optim_wrapper.paramwise_cfg.constructor')
        self.constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(
            type=paramwise_cfg.pop('constructor'), optim_wrapper_cfg=optim_wrapper_cfg,
            paramwise_cfg=paramwise_cfg))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of ``model.student``."""
        return self.constructor(unwrap(model).student)
