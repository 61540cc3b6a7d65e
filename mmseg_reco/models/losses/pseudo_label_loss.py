# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_reco.utils import check_loss, check_probability

from ..utils import global_avg_factor


def confident_share(confidence: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Share of each image's valid pixels whose confidence reaches a threshold.

    Args:
        confidence (Tensor): Shape (B, H, W), in [0, 1].
        valid (Tensor): Shape (B, H, W), bool.
        threshold (float): In [0, 1].

    Returns:
        Tensor: Shape (B,), in [0, 1]; 0 for an image without valid pixels.
    """
    confident = ((confidence >= threshold) & valid).flatten(1).sum(1)
    return confident / valid.flatten(1).sum(1).clamp_min(1)


@MODELS.register_module()
class PseudoLabelLoss(nn.Module):
    """Cross-entropy to pseudo-labels, weighted by the share of confident pixels, or of these alone.

    With several processes the average runs over the pixels of all ranks, which must all call the
    loss in every step. After each forward pass ``diagnostics['confident_share']`` holds the mean
    share of this rank.

    Args:
        strong_threshold (float): Confidence from which a pixel counts as confident, in [0, 1].
        average (str): What the weighted cross-entropy is averaged over. 'valid': all pixels with
            a pseudo-label, as the equation reads (default). 'positive': only those whose
            cross-entropy is > 0, as the authors' code does; pixels that the student already fits to
            the last bit then leave the denominator, and the weight of the rest grows during
            training.
        loss_weight (float): Factor of the loss, >= 0.
        ignore_index (int): Label of pixels that take no part.
        loss_name (str): Name in the log; must contain "loss" to be optimised.
        weight_by (str): 'image': the weight of a pixel is the confident share of its image (ReCo,
            default). 'pixel': 1 for a confident pixel, 0 for another, which stays in the average
            (FixMatch, UniMatch).
        class_weight (Sequence[float], optional): Weight of a pixel by its class, in the sum and in
            the average, as in the supervised ``CrossEntropyLoss``; give it where the labelled half
            has it, or the unlabelled half unlearns rare classes. None: 1 for all (default).

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self,
                 strong_threshold: float = 0.97,
                 average: str = 'valid',
                 loss_weight: float = 1.0,
                 ignore_index: int = 255,
                 loss_name: str = 'loss_unsup',
                 weight_by: str = 'image',
                 class_weight: Sequence[float] | None = None) -> None:
        super().__init__()
        check_probability('PseudoLabelLoss: strong_threshold', strong_threshold)
        if average not in ('valid', 'positive'):
            raise ValueError(f"PseudoLabelLoss: average is 'valid' or 'positive', got {average!r}")
        if weight_by not in ('image', 'pixel'):
            raise ValueError("PseudoLabelLoss: weight_by is 'image' or 'pixel', got "
                             f'{weight_by!r}')
        if class_weight is not None and not all(weight >= 0 for weight in class_weight):
            raise ValueError('PseudoLabelLoss: class_weight must be >= 0 for each class, got '
                             f'{class_weight!r}')
        self.strong_threshold = strong_threshold
        self.average = average
        self.weight_by = weight_by
        self.loss_weight = loss_weight
        self.ignore_index = ignore_index
        self.loss_name = loss_name
        check_loss(self)
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float)
        self.register_buffer('class_weight', weight, persistent=False)
        self.diagnostics: dict[str, Tensor] = dict()

    def forward(self, logits: Tensor, labels: Tensor, confidence: Tensor) -> Tensor:
        """Weighted cross-entropy.

        Args:
            logits (Tensor): Student logits at the size of the labels. Shape (B, C, H, W).
            labels (Tensor): Pseudo-labels. Shape (B, H, W), int64.
            confidence (Tensor): Confidence of the teacher. Shape (B, H, W), in [0, 1].

        Returns:
            Tensor: Scalar; 0, attached to the graph, where no pixel has a pseudo-label.

        Raises:
            ValueError: If ``class_weight`` is for another number of classes.
        """
        if self.class_weight is not None and len(self.class_weight) != logits.size(1):
            raise ValueError(f'PseudoLabelLoss: class_weight has {len(self.class_weight)} numbers, '
                             f'and the network {logits.size(1)} classes: give one for each')
        valid = labels != self.ignore_index
        share = confident_share(confidence, valid, self.strong_threshold)
        self.diagnostics = dict(confident_share=share.mean())
        loss = F.cross_entropy(
            logits.float(), labels, ignore_index=self.ignore_index, reduction='none')
        if self.weight_by == 'image':
            weighted = share[:, None, None] * loss
        else:
            weighted = (confidence >= self.strong_threshold) * loss
        counted = valid if self.average == 'valid' else loss > 0
        if self.class_weight is not None:
            counted = counted * self.class_weight[labels.where(valid, 0)]
        return self.loss_weight * (weighted * counted).sum() / global_avg_factor(counted.sum())
