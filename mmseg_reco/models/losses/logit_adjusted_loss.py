# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class LogitAdjustedLoss(CrossEntropyLoss):
    """Cross-entropy for labels in which classes are more or less frequent than in the images.

    One labelled pixel of each class (p0) makes a pole as frequent as the road: a network trained
    on such labels guesses rare classes everywhere, and a teacher hands that on in its
    pseudo-labels. Here the logarithm of ``label_ratio`` is added to the logits in the loss alone
    (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021), so that they learn without
    that excess. Unlike ``class_weight``, which would take the gradients of rare
    classes away, it keeps every labelled pixel's.

    Args:
        label_ratio (Sequence[float]): Of each class, its share of the labelled pixels over the
            share that shall be predicted; > 0, up to a common factor.
        **kwargs: Of mmseg's ``CrossEntropyLoss``, with softmax.

    Raises:
        ValueError: If a ratio is not positive.
    """

    def __init__(self, label_ratio: Sequence[float], **kwargs) -> None:
        super().__init__(**kwargs)
        if not all(ratio > 0 for ratio in label_ratio):
            raise ValueError(f'LogitAdjustedLoss: label_ratio must be > 0, got {label_ratio!r}')
        adjustment = torch.tensor(label_ratio, dtype=torch.float).log()[:, None, None]
        self.register_buffer('adjustment', adjustment, persistent=False)

    def forward(self, cls_score: Tensor, label: Tensor, *args, **kwargs) -> Tensor:
        """Cross-entropy of the adjusted logits.

        Args:
            cls_score (Tensor): Logits. Shape (B, C, H, W).
            label (Tensor): Shape (B, H, W), int64.
            *args, **kwargs: Of mmseg's ``CrossEntropyLoss``.

        Returns:
            Tensor: Scalar, unless ``reduction`` says otherwise.
        """
        return super().forward(cls_score + self.adjustment, label, *args, **kwargs)
