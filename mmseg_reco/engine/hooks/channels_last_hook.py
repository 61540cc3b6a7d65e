# Licensed under the Apache License, Version 2.0.
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keep the weights of convolutions channels last; what flows through them follows.

    Convolutions in half precision on recent GPUs want it, and on CPU those in single precision
    gain as well. Results differ by rounding alone.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Convert the model."""
        runner.model.to(memory_format=torch.channels_last)
