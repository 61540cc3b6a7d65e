# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmseg.models import CascadeEncoderDecoder, EncoderDecoder
from mmseg.models.decode_heads import PointHead
from mmseg.models.losses import CrossEntropyLoss, cross_entropy
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList, add_prefix
from torch import Tensor

from mmseg_reco.utils import as_list

from ..heads import FeatureTap, class_logits, default_tap
from ..losses import RegionLoss
from ..regions import RegionPrediction
from ..utils import global_avg_factor, resize_maps
from .dense import (
    DenseOutput,
    check_names,
    dense_losses,
    drop_channels,
    no_loss,
    stack_labels,
)


def cross_entropy_of_labels(pred: Tensor,
                            label: Tensor,
                            weight: Tensor | None = None,
                            class_weight: Tensor | None = None,
                            reduction: str = 'mean',
                            avg_factor: Tensor | float | None = None,
                            ignore_index: int = -100,
                            avg_non_ignore: bool = True) -> Tensor:
    """mmseg's ``cross_entropy``, averaged over the labelled pixels of all ranks.

    A collective that waits for no device. mmseg 1.2.2's own, with class weights, looks up the
    weight of the ignored class and fails.

    Raises:
        ValueError: If ``class_weight`` is for another number of classes.
    """
    if class_weight is not None and len(class_weight) != pred.size(1):
        raise ValueError(f'CrossEntropyLoss: class_weight has {len(class_weight)} numbers, and the '
                         f'head {pred.size(1)} classes: give one for each')
    if avg_factor is None and reduction == 'mean':
        avg_factor = label != ignore_index
        if class_weight is not None:
            avg_factor = class_weight[label.where(avg_factor, 0)] * avg_factor
        # Under autocast the weights may be bfloat16, in which a sum stops growing early.
        exact = torch.promote_types(avg_factor.dtype, torch.float32)
        avg_factor = global_avg_factor(avg_factor.sum(dtype=exact))
    return cross_entropy(pred, label, weight, class_weight, reduction, avg_factor, ignore_index)


def average_over_labels(model: nn.Module) -> None:
    """Make every cross-entropy of a model average over labelled pixels only, and say so.

    mmseg's default averages over all pixels: with 3 labelled pixels of 206,000 the loss is 30,000
    times too small.
    """
    for loss in model.modules():
        if isinstance(loss, CrossEntropyLoss) and loss.cls_criterion is cross_entropy:
            loss.cls_criterion = cross_entropy_of_labels
    changed = [
        name for name, loss in model.named_modules()
        if isinstance(loss, CrossEntropyLoss) and not loss.avg_non_ignore
    ]
    for name in changed:
        model.get_submodule(name).avg_non_ignore = True
    if changed:
        print_log(f'{", ".join(changed)}: averaging over labelled pixels (avg_non_ignore=True)',
                  'current')


class EmbeddingMixin:
    """A representation head, and losses on its representations, for a stock segmentor.

    The projector reads the decode head through one :class:`FeatureTap` and runs in training only;
    prediction is the stock one, and a checkpoint loads into the stock class (``projector.*`` keys
    aside). Without ``losses`` it is the stock class.

    Args:
        *args: Of the stock class.
        projector (dict): Config of the :class:`Projector`; ``in_channels`` is filled in from the
            tap, ``norm_cfg`` from the decode head, unless given.
        tap (str, optional): Submodule of the decode head whose input is the projector's. None
            takes the features that the head classifies (:func:`default_tap`); ``sep_bottleneck``
            of ``DepthwiseSeparableASPPHead`` is the paper's place. Of a cascade, the last head
            with a map is read.
        losses (Sequence[dict] | dict): Losses called with (embeddings, labels, probs), for example
            ``[dict(type='ReCoLoss')]``. Region losses need a teacher and do not belong here.
        avg_non_ignore (bool): Average every cross-entropy over labelled pixels only, with a
            message where the config says otherwise. False leaves the configured losses alone.
        **kwargs: Of the stock class.

    Raises:
        ValueError: If a loss compares regions with a teacher's, two have one name, or the head has
            no such tap.
    """

    def __init__(self,
                 *args,
                 projector: OptConfigType = None,
                 tap: str | None = None,
                 losses: Sequence[ConfigType] | ConfigType = (),
                 avg_non_ignore: bool = True,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if avg_non_ignore:
            average_over_labels(self)
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in as_list(losses))
        check_names(self.losses)
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
                'in_channels': self.open_tap().channels,
                'norm_cfg': self.norm_cfg,
                **(projector or {})
            })

    @property
    def heads(self) -> list[nn.Module]:
        """The decode heads that give a map: one, or those of a cascade in order."""
        heads = self.decode_head if isinstance(self.decode_head, nn.ModuleList) else [
            self.decode_head
        ]
        return [head for head in heads if not isinstance(head, PointHead)]

    @property
    def norm_cfg(self) -> OptConfigType:
        """Normalisation of the last head; K-Net's is that of the head that makes its kernels."""
        parts = self.heads[-1].modules()
        return next((part.norm_cfg for part in parts if hasattr(part, 'norm_cfg')), None)

    def open_tap(self) -> FeatureTap:
        """Where the projector reads."""
        return FeatureTap(self.heads[-1], self.tap or default_tap(self.heads[-1]))

    def forward_dense(self, inputs: Tensor, perturbed: int = 0,
                      drop_prob: float = 0.) -> DenseOutput:
        """One forward pass with representations.

        Args:
            inputs (Tensor): Images. Shape (B, 3, H, W).
            perturbed (int): That many images, the last ones, lose channels of their features
                before these are decoded (:func:`drop_channels`), and get no representations.
            drop_prob (float): Of each channel to be lost.

        Returns:
            DenseOutput: Features, what each of ``heads`` returned, and representations if there is
            a projector.
        """
        features, whole = self.extract_feat(inputs), len(inputs) - perturbed
        if perturbed:
            features = drop_channels(features, whole, drop_prob)
        if self.projector is None:
            return DenseOutput(features, self.decode(features), None)
        with self.open_tap() as tap:
            outputs = self.decode(features)
        return DenseOutput(features, outputs, self.embed(tap.features[:whole], inputs))

    def decode(self, features: Sequence[Tensor]) -> list:
        """What each of ``heads`` returns; in a cascade each sees the map of the one before."""
        first, *others = self.heads
        outputs = [first(features)]
        for head in others:
            outputs.append(head(features, outputs[-1]))
        return outputs

    def embed(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Project what the tap read; tokens (B, h * w, C) are laid out like the images first."""
        if features.dim() == 3:
            height, width = inputs.shape[-2:]
            rows = round((features.size(1) * height / width)**0.5)
            features = features.transpose(1, 2).unflatten(2, (rows, -1))
        return self.projector(features)

    def predict_dense(self, inputs: Tensor, metas: list[dict], embed: bool) -> DenseOutput:
        """The stock prediction (``encode_decode``), with representations on request.

        Args:
            inputs (Tensor): Images. Shape (B, 3, H, W).
            metas (list[dict]): Their meta information.
            embed (bool): Whether to run the projector.

        Returns:
            DenseOutput: Outputs are logits at image size; no features.
        """
        if not embed:
            return DenseOutput((), [self.encode_decode(inputs, metas)], None)
        with self.open_tap() as tap:
            logits = self.encode_decode(inputs, metas)
        return DenseOutput((), [logits], self.embed(tap.features, inputs))

    def class_logits(self, dense: DenseOutput) -> Tensor:
        """Logits of all classes, of the last head. Shape (B, K, h, w)."""
        return class_logits(self.heads[-1], dense.outputs[-1])

    def probabilities(self, dense: DenseOutput) -> Tensor:
        """Probability of every class, float32. Shape (B, K, h, w)."""
        return self.to_probabilities(self.class_logits(dense))

    @staticmethod
    def to_probabilities(class_logits: Tensor) -> Tensor:
        """Probabilities (B, K, h, w), float32, of :meth:`class_logits`, resized or not."""
        return class_logits.float().softmax(1)

    def regions(self, dense: DenseOutput) -> RegionPrediction:
        """One soft mask for each class, at the representations' resolution."""
        probs = resize_maps(self.probabilities(dense), dense.embeddings.shape[-2:])
        return RegionPrediction(masks=probs, features=dense.embeddings, semantic=probs)

    def supervised_losses(self, dense: DenseOutput, data_samples: SampleList) -> dict[str, Tensor]:
        """The stock losses of the decode heads and the auxiliary heads, as configured.

        Args:
            dense (DenseOutput): Forward pass of the labelled images.
            data_samples (list[SegDataSample]): Their labels.

        Returns:
            dict[str, Tensor]: Named as in the stock class.
        """
        if isinstance(self.decode_head, nn.ModuleList):
            losses = dict()
            for i, head in enumerate(self.decode_head):
                if i < len(dense.outputs):
                    values = head.loss_by_feat(dense.outputs[i], data_samples)
                else:  # a point head draws its points anew
                    values = head.loss(dense.features, dense.outputs[-1], data_samples,
                                       self.train_cfg)
                losses.update(add_prefix(values, f'decode_{i}'))
        else:
            values = self.decode_head.loss_by_feat(dense.outputs[0], data_samples)
            losses = add_prefix(values, 'decode')
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
        elif dense.embeddings is not None:
            losses['loss_projector'] = no_loss(dense.embeddings)
        return losses


@MODELS.register_module()
class EmbeddingEncoderDecoder(EmbeddingMixin, EncoderDecoder):
    """A stock EncoderDecoder with a representation head; see :class:`EmbeddingMixin`."""


@MODELS.register_module()
class EmbeddingCascadeEncoderDecoder(EmbeddingMixin, CascadeEncoderDecoder):
    """A stock cascade (OCRNet, PointRend) with a representation head; see :class:`EmbeddingMixin`.

    Representations are those of the last head with a map: OCRNet's second, and PointRend's first,
    since its second refines points. Pseudo-labels are the stock prediction, PointRend's refined.
    """
