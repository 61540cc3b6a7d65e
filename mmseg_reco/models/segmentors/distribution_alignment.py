# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..utils import summed_over_ranks

_EPS = 1e-6
# Of a correction: a factor of a thousand. A class that the teacher never gives asks for ever more.
_LIMIT = 7.


class DistributionAlignment(nn.Module):
    """Give the teacher's pseudo-labels the class frequencies of the labels.

    A teacher that sees a class too often labels it too often, and the student learns that: some
    classes spread from step to step, others vanish. Here each probability is multiplied by the
    target frequency of its class over its frequency in the teacher's predictions, as in ReMixMatch
    (Berthelot et al., ICLR 2020), with pixels in the place of images. What is counted is kept in
    buffers, so that a resumed training goes on with it.

    That ratio is too weak where the teacher is sure: times a tenth, 0.99 against 0.01 is still
    0.91, and over some thousand iterations such a class spreads all the same. ``exact`` adds a
    correction to its logarithm, which moves for as long as the aligned predictions do not have the
    target frequencies: the marginal constraint of Sinkhorn label allocation (Tai et al., ICML
    2021), met over steps instead of within one.

    Args:
        num_classes (int): Number of classes C.
        target (Sequence[float] | str): Frequency of each class, > 0, up to a common factor; or
            'labeled': those of the labelled pixels so far.
        momentum (float): Least share of a step in the teacher's frequencies, in [0, 1]; 0 makes
            them a mean over all steps.
        exact (bool): Whether to correct the ratio: by the momentum, in each step, of the logarithm
            that is missing, cut at 1.

    Raises:
        ValueError: If the target is neither, or has another number of classes.
    """

    def __init__(self, num_classes: int, target: Sequence[float] | str,
                 momentum: float = 0.01, exact: bool = False) -> None:
        super().__init__()
        if isinstance(target, str):
            if target != 'labeled':
                raise ValueError("semi_train_cfg.class_frequencies is 'labeled' or a list of one "
                                 f'number for each class, got {target!r}')
        elif len(target) != num_classes or not all(share > 0 for share in target):
            raise ValueError(f'semi_train_cfg.class_frequencies needs {num_classes} positive '
                             f'numbers, one for each class, got {target!r}')
        self.momentum = momentum
        self.exact = exact
        self.counting = isinstance(target, str)
        frequencies = torch.zeros(num_classes) if self.counting else torch.tensor(
            target, dtype=torch.float)
        self.register_buffer('target', frequencies / frequencies.sum().clamp_min(_EPS))
        self.register_buffer('found', torch.zeros(num_classes))
        self.register_buffer('batches', torch.zeros(2))  # of labels, of predictions
        if exact:
            self.register_buffer('aligned', torch.zeros(num_classes))
            self.register_buffer('correction', torch.zeros(num_classes))

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
        counts = summed_over_ranks(counts[:classes].to(self.target.dtype))
        self._average_in(self.target, counts, self._step(0, counts, 0.))

    @torch.no_grad()
    def observe(self, probs: Tensor) -> None:
        """Take predictions of the teacher into account.

        Args:
            probs (Tensor): Probabilities, float32. Shape (B, C, h, w).
        """
        counts = summed_over_ranks(probs.sum((0, 2, 3)))
        step = self._step(1, counts, self.momentum)
        self._average_in(self.found, counts, step)
        if self.exact:
            self._average_in(self.aligned, summed_over_ranks(self(probs).sum((0, 2, 3))), step)
            missing = self._log_ratio(self.aligned).clamp(-1, 1)
            self.correction += self.momentum * (missing - missing.mean())
            self.correction.clamp_(-_LIMIT, _LIMIT)

    def forward(self, probs: Tensor) -> Tensor:
        """Aligned probabilities; as they are, while one of the frequencies is not known.

        Args:
            probs (Tensor): Of the teacher, float32. Shape (B, C, h, w).

        Returns:
            Tensor: The same shape, and the same sums over C.
        """
        ratio = self._log_ratio(self.found)
        if self.exact:
            ratio = ratio + self.correction
        aligned = probs * ratio.exp()[:, None, None]
        # Scores of a query head may add up to less than 1, and are less sure then.
        return aligned * (probs.sum(1, keepdim=True) / aligned.sum(1, keepdim=True).clamp_min(_EPS))

    def _log_ratio(self, found: Tensor) -> Tensor:
        """Logarithm of target over found frequencies; 0 while one of them is not known."""
        ratio = ((self.target + _EPS) / (found + _EPS)).log()
        return torch.where(self.target.any() & found.any(), ratio, 0.)

    def _step(self, which: int, counts: Tensor, momentum: float) -> Tensor:
        """Share of one more batch of labels (0) or predictions (1) in the mean over them."""
        self.batches[which] += counts.any()
        return (1 / self.batches[which].clamp_min(1)).clamp_min(momentum)

    @staticmethod
    def _average_in(mean: Tensor, counts: Tensor, step: Tensor) -> None:
        """Move mean shares by the step to those of a batch, where it has any."""
        total = counts.sum()
        mean += (total > 0) * step * (counts / total.clamp_min(1) - mean)
