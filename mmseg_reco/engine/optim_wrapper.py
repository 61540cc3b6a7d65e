# Licensed under the Apache License, Version 2.0.
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on CPU: forward passes under autocast to bfloat16.

    mmengine's ``AmpOptimWrapper`` wants a GPU. bfloat16 has the range of float32, so no loss needs
    scaling. It pays where the processor multiplies bfloat16 itself (avx512_bf16, AMX).
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the model's forward pass under autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
