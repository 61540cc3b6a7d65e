# Licensed under the Apache License, Version 2.0.
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import Tensor


def slow_in_bfloat16(module: nn.Module) -> bool:
    """Whether a module is a convolution whose gradient takes longer in bfloat16 than in float32.

    Depthwise ones with a stride or a dilation do, on a CPU: oneDNN has no quick form of them, and
    takes several times as long. What a step gains is in docs/performance.md.
    """
    return (isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
            and (max(module.stride) > 1 or max(module.dilation) > 1)
            and module.weight.requires_grad)


def forward_in_float32(module: nn.Module, inputs: Tensor) -> Tensor:
    """A module's own forward pass, outside of autocast."""
    with torch.autocast('cpu', enabled=False):
        return type(module).forward(module, inputs.float())


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on CPU: forward passes under autocast to bfloat16.

    mmengine's ``AmpOptimWrapper`` wants a GPU. bfloat16 has the range of float32, so no loss needs
    scaling. It pays where the processor multiplies bfloat16 itself (avx512_bf16, AMX). What is
    :func:`slow_in_bfloat16` stays in float32, but for what ``with_cp`` runs again in the backward
    pass.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the model's forward pass under autocast."""
        with ExitStack() as stack:
            stack.enter_context(super().optim_context(model))
            stack.enter_context(torch.autocast('cpu', torch.bfloat16))
            for module in filter(slow_in_bfloat16, model.modules()):
                module.forward = partial(forward_in_float32, module)
                stack.callback(delattr, module, 'forward')
            yield
