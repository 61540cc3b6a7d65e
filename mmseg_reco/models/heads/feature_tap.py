# Licensed under the Apache License, Version 2.0.
"""The one place that knows how to read features and maps out of a stock decode head."""
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

#: What classifies the pixels of heads that have no ``conv_seg`` of their own.
_CLASSIFIERS = dict(
    IterativeDecodeHead='kernel_generate_head.conv_seg', SegmenterMaskTransformerHead='patch_proj')
#: Which of the maps that a head returns in training it predicts from, if not the first.
_MAIN_MAPS = dict(PIDHead=1, IterativeDecodeHead=-1)


def default_tap(head: nn.Module) -> str:
    """Name of the submodule of a stock head whose input are the features it classifies."""
    return _CLASSIFIERS.get(type(head).__name__, 'conv_seg')


def class_logits(head: nn.Module, outputs: Any) -> Tensor:
    """Logits of all classes, of the map that a stock head predicts from.

    Args:
        head (nn.Module): A per-pixel decode head.
        outputs: What its ``forward`` returned: a map, or several.

    Returns:
        Tensor: Shape (B, K, h, w). A head of one channel (``out_channels=1``) scores the second of
        two classes; the first then has logit 0, so that softmax gives the head's sigmoid.
    """
    while not isinstance(outputs, Tensor):
        outputs = outputs[_MAIN_MAPS.get(type(head).__name__, 0)]
    if outputs.size(1) == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
    return outputs


class FeatureTap:
    """Reads what enters or leaves one submodule of a decode head, while a ``with`` block is open.

    Nearly every per-pixel head of mmseg ends in ``conv_seg``; :func:`default_tap` knows the others.
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
            for name in ('in_channels', 'in_features'):
                channels = getattr(layer, name, None)
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
