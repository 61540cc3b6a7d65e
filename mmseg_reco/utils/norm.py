# Licensed under the Apache License, Version 2.0.
import torch.nn as nn
from mmcv.ops import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a BN: torch's of any kind, or mmcv's ``MMSyncBN``, which is none."""
    return isinstance(module, (_BatchNorm, SyncBatchNorm))
