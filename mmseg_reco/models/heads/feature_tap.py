# Licensed under the Apache License, Version 2.0.
"""The one place that knows how to read features out of a stock decode head."""
from typing import Any

import torch.nn as nn
from torch import Tensor


class FeatureTap:
    """Reads what enters or leaves one submodule of a decode head, while a ``with`` block is open.

    Every per-pixel head of mmseg ends in ``conv_seg``, so the default tap works for all of them.
    Outside the block the head is untouched: prediction costs nothing. Of a submodule that is called
    several times, the last call is read.

    Args:
        head (nn.Module): A decode head.
        module (str): Dotted name of the submodule that is read.
        output (bool): Read what the submodule returns instead of its first input.

    Raises:
        ValueError: If the head has no such submodule.

    Examples:
        >>> with FeatureTap(head) as tap:
        >>>     logits = head(features)
        >>> tap.features.shape  # (B, head.conv_seg.in_channels, h, w)
    """

    def __init__(self, head: nn.Module, module: str = 'conv_seg', output: bool = False) -> None:
        try:
            self.module = head.get_submodule(module)
        except AttributeError:
            children = ', '.join(name for name, _ in head.named_children())
            raise ValueError(
                f'{type(head).__name__} has no submodule "{module}" to read representations from. '
                f'Set the tap to one of its parts ({children}); heads that classify queries '
                'instead of pixels have no per-pixel features.') from None
        self.output = output
        self.features: Tensor | Any = None

    @property
    def channels(self) -> int:
        """Channels of the features that are read.

        Raises:
            ValueError: If no layer below the submodule tells.
        """
        for layer in self.module.modules():
            channels = getattr(layer, 'in_channels', None)
            if isinstance(channels, int):
                return channels
        raise ValueError(f'the input channels of {self.module} cannot be told; give in_channels')

    def _read(self, module: nn.Module, inputs: tuple, outputs: Any = None) -> None:
        self.features = outputs if self.output else inputs[0]

    def __enter__(self) -> 'FeatureTap':
        register = (self.module.register_forward_hook if self.output
                    else self.module.register_forward_pre_hook)
        self._handle = register(self._read)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handle.remove()
