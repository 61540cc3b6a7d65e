# Licensed under the Apache License, Version 2.0.
import torch.nn as nn
from mmengine.model import is_model_wrapper


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside of a wrapper for distributed training, or the model itself."""
    return model.module if is_model_wrapper(model) else model
