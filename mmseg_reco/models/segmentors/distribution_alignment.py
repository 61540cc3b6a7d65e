# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..utils import summed_over_ranks

_EPS = 1e-6


class DistributionAlignment(nn.Module):
    """Give the teacher's pseudo-labels the class frequencies of the labels.

    A teacher that sees a class too often labels it too often, and the student learns that: some
    classes spread from step to step, others vanish. Here each probability is multiplied by the
    target frequency of its class over its frequency in the teacher's predictions, as in ReMixMatch
    (Berthelot et al., ICLR 2020), with pixels in the place of images. What is counted is kept in
    buffers, so that a resumed training goes on with it.

    Args:
        num_classes (int): Number of classes C.
        target (Sequence[float] | str): Frequency of each class, > 0, up to a common factor; or
            'labeled': those of the labelled pixels so far.
        momentum (float): Least share of a step in the teacher's frequencies, in [0, 1]; 0 makes
            them a mean over all steps.

    Raises:
        ValueError: If the target is neither, or has another number of classes.
    """

    def __init__(self, num_classes: int, target: Sequence[float] | str,
                 momentum: float = 0.01) -> None:
        super().__init__()
        if isinstance(target, str):
            if target != 'labeled':
                raise ValueError("semi_train_cfg.class_frequencies is 'labeled' or a list of one "
                                 f'number for each class, got {target!r}')
        elif len(target) != num_classes or not all(share > 0 for share in target):
            raise ValueError(f'semi_train_cfg.class_frequencies needs {num_classes} positive '
                             f'numbers, one for each class, got {target!r}')
        self.momentum = momentum
        self.counting = isinstance(target, str)
        frequencies = torch.zeros(num_classes) if self.counting else torch.tensor(
            target, dtype=torch.float)
        self.register_buffer('target', frequencies / frequencies.sum().clamp_min(_EPS))
        self.register_buffer('found', torch.zeros(num_classes))
        self.register_buffer('batches', torch.zeros(2))  # of labels, of predictions

    @torch.no_grad()
    def count(self, labels: Tensor) -> None:
        """Take given labels into account; their frequencies are a mean over all batches.

        Args:
            labels (Tensor): Shape (B, H, W), int64; what is not a class is left out.
        """
        if not self.counting:
            return
        classes = len(self.target)
        known = (labels >= 0) & (labels < classes)
        # In integers: a float32 count stays at 2^24.
        counts = labels.new_zeros(classes + 1).index_add_(
            0, labels.where(known, classes).flatten(), known.flatten().to(labels.dtype))
        self._move(self.target, counts[:classes].to(self.target.dtype), 0, 0.)

    @torch.no_grad()
    def observe(self, probs: Tensor) -> None:
        """Take predictions of the teacher into account.

        Args:
            probs (Tensor): Probabilities, float32. Shape (B, C, h, w).
        """
        self._move(self.found, probs.sum((0, 2, 3)), 1, self.momentum)

    def forward(self, probs: Tensor) -> Tensor:
        """Aligned probabilities; as they are, while one of the frequencies is not known.

        Args:
            probs (Tensor): Of the teacher, float32. Shape (B, C, h, w).

        Returns:
            Tensor: The same shape, and the same sums over C.
        """
        ratio = (self.target + _EPS) / (self.found + _EPS)
        ratio = torch.where(self.target.any() & self.found.any(), ratio, 1.)
        aligned = probs * ratio[:, None, None]
        # Scores of a query head may add up to less than 1, and are less sure then.
        return aligned * (probs.sum(1, keepdim=True) / aligned.sum(1, keepdim=True).clamp_min(_EPS))

    def _move(self, mean: Tensor, counts: Tensor, which: int, momentum: float) -> None:
        """Average the shares of a batch in: all batches alike, or at least with the momentum."""
        counts = summed_over_ranks(counts)
        self.batches[which] += 1
        step = (1 / self.batches[which]).clamp_min(momentum)
        total = counts.sum()
        mean += (total > 0) * step * (counts / total.clamp_min(1) - mean)
