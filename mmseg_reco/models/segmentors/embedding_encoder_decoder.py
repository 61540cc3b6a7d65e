# Licensed under the Apache License, Version 2.0.
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.logging import print_log
from mmseg.models import EncoderDecoder
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList, add_prefix
from torch import Tensor

from ..heads import FeatureTap


class DenseOutput(NamedTuple):
    """What one forward pass of a student gives.

    Attributes:
        features: Backbone (and neck) features, as the heads take them.
        outputs: Whatever the decode head's ``forward`` returned.
        embeddings (Tensor, optional): Representations (B, D, h, w).
    """

    features: Any
    outputs: Any
    embeddings: Tensor | None

    @property
    def logits(self) -> Tensor:
        """The head's logits (B, C, h, w): the first map where it returns several."""
        outputs = self.outputs
        while not isinstance(outputs, Tensor):
            outputs = outputs[0]
        return outputs

    def split(self, size: int) -> tuple['DenseOutput', 'DenseOutput']:
        """Cut a batch in two, after ``size`` images."""
        return (DenseOutput(*(_map(lambda x: x[:size], part) for part in self)),
                DenseOutput(*(_map(lambda x: x[size:], part) for part in self)))

    @staticmethod
    def cat(first: 'DenseOutput', second: 'DenseOutput') -> 'DenseOutput':
        """Put two batches together; the inverse of :meth:`split`."""
        return DenseOutput(*(_map(lambda *x: torch.cat(x), *parts)
                             for parts in zip(first, second, strict=True)))


def _map(function, *trees):
    """Apply a function to the tensors of nested lists and tuples."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, (list, tuple)):
        return type(first)(_map(function, *parts) for parts in zip(*trees, strict=True))
    return first


def stack_labels(data_samples: SampleList, name: str = 'gt_sem_seg') -> Tensor:
    """Stack the label maps of a batch to (B, H, W), int64."""
    return torch.cat([getattr(sample, name).data for sample in data_samples])


def average_over_labels(model: nn.Module) -> None:
    """Make every cross-entropy of a model average over labelled pixels only, and say so.

    mmseg's default averages over all pixels: with 3 labelled pixels of 206,000 the loss is 30,000
    times too small.
    """
    changed = [
        name for name, loss in model.named_modules()
        if isinstance(loss, CrossEntropyLoss) and not loss.avg_non_ignore
    ]
    for name in changed:
        model.get_submodule(name).avg_non_ignore = True
    if changed:
        print_log(f'{", ".join(changed)}: averaging over labelled pixels (avg_non_ignore=True)',
                  'current')


@MODELS.register_module()
class EmbeddingEncoderDecoder(EncoderDecoder):
    """A stock EncoderDecoder with a representation head and losses on its representations.

    The projector reads the decode head through one :class:`FeatureTap` and runs in training only;
    prediction is the stock one, and a checkpoint loads into the stock class (``projector.*`` keys
    aside). Without ``losses`` it is the stock class.

    Args:
        *args: Of :class:`mmseg.models.EncoderDecoder`.
        projector (dict): Config of the :class:`Projector`; ``in_channels`` is filled in from the
            tap, ``norm_cfg`` from the decode head, unless given.
        tap (str): Submodule of the decode head whose input is the projector's. ``conv_seg``
            works for every head that ends in ``cls_seg``; ``sep_bottleneck`` of
            ``DepthwiseSeparableASPPHead`` is the paper's place.
        losses (Sequence[dict]): Losses called with (embeddings, labels, probs), for example
            ``[dict(type='ReCoLoss')]``.
        avg_non_ignore (bool): Average every cross-entropy over labelled pixels only, with a
            message where the config says otherwise. False leaves the configured losses alone.
        **kwargs: Of :class:`mmseg.models.EncoderDecoder`.
    """

    def __init__(self,
                 *args,
                 projector: OptConfigType = None,
                 tap: str = 'conv_seg',
                 losses: Sequence[ConfigType] = (),
                 avg_non_ignore: bool = True,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if avg_non_ignore:
            average_over_labels(self)
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in losses)
        self.tap = tap
        self.projector = None
        if projector is not None or losses:
            self.projector = MODELS.build({
                'type': 'Projector',
                'in_channels': FeatureTap(self.decode_head, tap).channels,
                'norm_cfg': self.decode_head.norm_cfg,
                **(projector or {})
            })

    def forward_dense(self, inputs: Tensor) -> DenseOutput:
        """One forward pass with representations.

        Args:
            inputs (Tensor): Images. Shape (B, 3, H, W).

        Returns:
            DenseOutput: Features, the head's outputs, and representations if there is a projector.
        """
        features = self.extract_feat(inputs)
        if self.projector is None:
            return DenseOutput(features, self.decode_head(features), None)
        with FeatureTap(self.decode_head, self.tap) as tap:
            outputs = self.decode_head(features)
        return DenseOutput(features, outputs, self.projector(tap.features))

    def supervised_losses(self, dense: DenseOutput, data_samples: SampleList) -> dict[str, Tensor]:
        """The stock losses of the decode head and the auxiliary heads, as configured.

        Args:
            dense (DenseOutput): Forward pass of the labelled images.
            data_samples (list[SegDataSample]): Their labels.

        Returns:
            dict[str, Tensor]: Named as in the stock class.
        """
        losses = add_prefix(self.decode_head.loss_by_feat(dense.outputs, data_samples), 'decode')
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(dense.features, data_samples))
        return losses

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """Stock losses plus the losses on representations.

        Args:
            inputs (Tensor): Images. Shape (B, 3, H, W).
            data_samples (list[SegDataSample]): Their labels.

        Returns:
            dict[str, Tensor]: Loss components and diagnostics, as mmengine takes them.
        """
        dense = self.forward_dense(inputs)
        losses = self.supervised_losses(dense, data_samples)
        if self.losses:
            losses.update(dense_losses(self.losses, dense, stack_labels(data_samples)))
        return losses


def dense_losses(modules: Iterable[nn.Module], dense: DenseOutput,
                 labels: Tensor) -> dict[str, Tensor]:
    """Call losses on representations, at the representations' resolution.

    Args:
        modules (Iterable[nn.Module]): Losses called with (embeddings, labels, probs).
        dense (DenseOutput): Forward pass of the images.
        labels (Tensor): Labels at any resolution, ignored where not valid. Shape (B, H, W), int64.

    Returns:
        dict[str, Tensor]: Each loss under its ``loss_name``.
    """
    size = dense.embeddings.shape[-2:]
    with torch.no_grad():
        labels = F.interpolate(labels[:, None].float(), size, mode='nearest')[:, 0].long()
        probs = dense.logits.float().softmax(1)
        if probs.shape[-2:] != size:
            probs = F.interpolate(probs, size, mode='bilinear')
    return {module.loss_name: module(dense.embeddings, labels, probs) for module in modules}
