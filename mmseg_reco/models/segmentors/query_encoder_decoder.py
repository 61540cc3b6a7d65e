# Licensed under the Apache License, Version 2.0.
import torch.nn as nn
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import SampleList, add_prefix
from torch import Tensor

from mmseg_reco.utils import type_name

from ..heads import semantic_scores
from ..regions import RegionPrediction
from .dense import DenseOutput, drop_channels
from .embedding_encoder_decoder import average_over_labels

#: Stock heads that classify queries, and the heads that also hand out their regions.
QUERY_HEADS = {
    'MaskFormerHead': 'RegionMaskFormerHead',
    'Mask2FormerHead': 'RegionMask2FormerHead',
}


@MODELS.register_module()
class QueryEncoderDecoder(EncoderDecoder):
    """A stock EncoderDecoder with a query head that hands out its regions.

    The counterpart of :class:`EmbeddingEncoderDecoder` for MaskFormer and Mask2Former, with the
    same interface. Representations are the pixel decoder's map. Prediction is the stock one, and
    checkpoints are interchangeable with the stock class.

    Args:
        *args: Of :class:`mmseg.models.EncoderDecoder`.
        decode_head (dict): ``RegionMaskFormerHead`` or ``RegionMask2FormerHead``; a stock one
            becomes that.
        avg_non_ignore (bool): See :class:`EmbeddingMixin`; for auxiliary heads.
        **kwargs: Of :class:`mmseg.models.EncoderDecoder`.
    """

    def __init__(self, *args, decode_head: dict, avg_non_ignore: bool = True, **kwargs) -> None:
        kind = QUERY_HEADS.get(type_name(decode_head), decode_head['type'])
        super().__init__(*args, decode_head=dict(decode_head, type=kind), **kwargs)
        if avg_non_ignore:
            average_over_labels(self)

    @property
    def heads(self) -> list[nn.Module]:
        """The decode head, in a list as the other networks have it."""
        return [self.decode_head]

    def forward_dense(self, inputs: Tensor, perturbed: int = 0,
                      drop_prob: float = 0.) -> DenseOutput:
        """One forward pass.

        Args:
            inputs (Tensor): Images. Shape (B, 3, H, W).
            perturbed (int): That many images, the last ones, lose channels of their features
                before these are decoded (:func:`drop_channels`).
            drop_prob (float): Of each channel to be lost.

        Returns:
            DenseOutput: Features, the head's ``QueryOutput``, and the pixel decoder's map.
        """
        features = self.extract_feat(inputs)
        if perturbed:
            features = drop_channels(features, len(inputs) - perturbed, drop_prob)
        outputs = self.decode_head.forward_regions(features, tuple(inputs.shape[-2:]))
        return DenseOutput(features, outputs, outputs.pixel_features)

    def predict_dense(self, inputs: Tensor, metas: list[dict], embed: bool) -> DenseOutput:
        """The same as :meth:`forward_dense`: a query head says all at once."""
        return self.forward_dense(inputs)

    def probabilities(self, dense: DenseOutput) -> Tensor:
        """Score of every class, from the masks at their own size, float32. Shape (B, K, h, w).

        Where overlapping queries make the scores of a pixel add up to more than 1, they are divided
        by their sum; where no query claims a pixel they stay small, and so does the confidence.
        As a part of RC²L this is this project's reconstruction.
        """
        outputs = dense.outputs
        scores = semantic_scores(outputs.class_logits[-1], outputs.mask_logits[-1])
        return scores / scores.sum(1, keepdim=True).clamp_min(1)

    def class_logits(self, dense: DenseOutput) -> Tensor:
        """Logarithm of :meth:`probabilities`, for losses that take logits."""
        return self.probabilities(dense).clamp_min(1e-6).log()

    @staticmethod
    def to_probabilities(class_logits: Tensor) -> Tensor:
        """Probabilities of :meth:`class_logits`, resized or not; they may add up to less than 1."""
        return class_logits.exp()

    def regions(self, dense: DenseOutput) -> RegionPrediction:
        """One soft mask for each query, of the last decoder layer."""
        outputs = dense.outputs
        return RegionPrediction(
            masks=outputs.mask_logits[-1].float().sigmoid(),
            features=dense.embeddings,
            semantic=self.probabilities(dense),
            class_logits=outputs.class_logits[-1])

    def supervised_losses(self, dense: DenseOutput, data_samples: SampleList) -> dict[str, Tensor]:
        """The set loss of the decode head and the losses of auxiliary heads, as configured.

        Args:
            dense (DenseOutput): Forward pass of the labelled images.
            data_samples (list[SegDataSample]): Their labels.

        Returns:
            dict[str, Tensor]: Named as in the stock class.
        """
        losses = add_prefix(self.decode_head.loss_by_regions(dense.outputs, data_samples), 'decode')
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(dense.features, data_samples))
        return losses
