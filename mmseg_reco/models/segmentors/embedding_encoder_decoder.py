# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch.nn as nn
from mmengine.logging import print_log
from mmseg.models import EncoderDecoder
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList, add_prefix
from torch import Tensor

from ..heads import FeatureTap
from ..losses import RegionLoss
from ..regions import RegionPrediction, resize_maps
from .dense import DenseOutput, dense_losses, stack_labels


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
            ``[dict(type='ReCoLoss')]``. Region losses need a teacher and do not belong here.
        avg_non_ignore (bool): Average every cross-entropy over labelled pixels only, with a
            message where the config says otherwise. False leaves the configured losses alone.
        **kwargs: Of :class:`mmseg.models.EncoderDecoder`.

    Raises:
        ValueError: If a loss compares regions with a teacher's.
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
        for loss in self.losses:
            if isinstance(loss, RegionLoss):
                raise ValueError(f'{type(loss).__name__} compares with a teacher, which '
                                 f'{type(self).__name__} has not: wrap the segmentor in '
                                 'MeanTeacherReCo or RC2L and give the loss to that')
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

    def predict_dense(self, inputs: Tensor, metas: list[dict], embed: bool) -> DenseOutput:
        """The stock prediction (``encode_decode``), with representations on request.

        Args:
            inputs (Tensor): Images. Shape (B, 3, H, W).
            metas (list[dict]): Their meta information.
            embed (bool): Whether to run the projector.

        Returns:
            DenseOutput: Outputs are logits at image size.
        """
        features = self.extract_feat(inputs)
        with FeatureTap(self.decode_head, self.tap) as tap:
            logits = self.decode_head.predict(features, metas, self.test_cfg)
        return DenseOutput(features, logits, self.projector(tap.features) if embed else None)

    @staticmethod
    def probabilities(dense: DenseOutput) -> Tensor:
        """Probability of every class, float32. Shape (B, K, h, w)."""
        return dense.logits.float().softmax(1)

    @classmethod
    def regions(cls, dense: DenseOutput) -> RegionPrediction:
        """One soft mask for each class, at the representations' resolution."""
        probs = resize_maps(cls.probabilities(dense), dense.embeddings.shape[-2:])
        return RegionPrediction(masks=probs, features=dense.embeddings, semantic=probs)

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
            losses.update(
                dense_losses(self.losses, dense.embeddings, stack_labels(data_samples),
                             self.probabilities(dense)))
        return losses
