# Licensed under the Apache License, Version 2.0.

import torch
import torch.nn as nn
from mmseg.registry import MODELS, TASK_UTILS
from mmseg.utils import ConfigType
from torch import Tensor

from mmseg_reco.utils import check_count, check_loss, check_positive

from ..samplers import PixelIndex, build_pixel_index
from ..utils import summed_over_ranks, unit_vectors
from .sampled_contrast import sampled_contrast

# Elements of the class membership of some images: 64 MiB of float32.
MEMBERSHIP_ELEMENTS = 2**24

# Negatives drawn at once: 64 MiB of float64, three times what the paper's settings need for VOC.
NEGATIVES_AT_ONCE = 2**23


def class_means(rows: Tensor, labels: Tensor, count: Tensor,
                over_ranks: bool = False) -> tuple[Tensor, Tensor]:
    """Mean representation of each class.

    Args:
        rows (Tensor): Representations. Shape (B, n, D), any float dtype.
        labels (Tensor): Class of each row; anything outside [0, C) is left out. Shape (B, n),
            int64.
        count (Tensor): Rows of each class. Shape (C,), int64.
        over_ranks (bool): Whether to average over the rows of all ranks.

    Returns:
        tuple[Tensor, Tensor]: Means of shape (C, D), float32 (float64 for float64 rows), zero for
        a class without rows; and which classes have rows, shape (C,), bool.
    """
    classes = torch.arange(count.numel(), device=labels.device)[:, None]
    # Half precision is too coarse for sums over pixels.
    dtype = torch.promote_types(rows.dtype, torch.float32)
    images = max(1, MEMBERSHIP_ELEMENTS // (labels.size(1) * count.numel()))
    sums = sum((part_labels[:, None] == classes).to(dtype).bmm(part.to(dtype)).sum(0)
               for part, part_labels in zip(rows.split(images), labels.split(images), strict=True))
    if over_ranks:
        totals = summed_over_ranks(torch.cat([sums, count[:, None].to(sums.dtype)], 1))
        sums, count = totals[:, :-1], totals[:, -1]
    return sums / count.clamp_min(1)[:, None], count > 0


@MODELS.register_module()
class ReCoLoss(nn.Module):
    r"""Regional contrast (ReCo, ICLR 2022, arXiv 2104.04465).

    For every class present in the mini-batch, hard pixels are queries, the mean representation of
    the class is the positive key, and pixels of other classes, preferably of close ones, are
    negative keys. Keys and prototypes carry no gradient. The loss is the mean over the present
    classes of the mean over queries of InfoNCE on cosine similarity; a class without hard pixels
    contributes 0, and fewer than two classes give 0, attached to the graph.

    With M negatives the loss lies between :math:`\log(1 + M e^{-2/\tau})` and about
    :math:`\log(1 + M e^{2/\tau})`, and starts near :math:`\log(1 + M)`: 2.34 and 6.24 at the
    defaults, next to a cross-entropy of a few tenths. ``loss_weight`` balances them.

    After each forward pass, detached and on the device: ``diagnostics`` (``hard_query_share``, the
    share of hard pixels among valid ones; ``classes_present``; ``negatives_per_class``, the
    expected number of draws, shape (C,)), ``prototypes`` (mean representations, of unit length,
    shape (C, D)), ``relation`` (the class relation graph G, their cosines, shape (C, C)) and
    ``present`` (classes in the graph, shape (C,), bool).

    With several processes the prototypes, and so the graph, are those of the batch of all ranks
    (``sync_prototypes``), as one process with that batch has them; queries and negatives stay
    local, and so do ``diagnostics``.

    Args:
        num_queries (int): Queries of each class, >= 1.
        num_negatives (int): Negative keys of each query, >= 1.
        temperature (float): Temperature of the contrast and of the active key sampler, > 0.
        strong_threshold (float): A pixel is hard where the probability of its class is below
            this, in (0, 1].
        query_sampler (dict): ``ActiveQuerySampler`` (the paper's) or ``RandomQuerySampler``.
        key_sampler (dict): ``ActiveKeySampler`` (the paper's) or ``RandomKeySampler``.
        sync_prototypes (bool): Whether prototypes are means over all ranks; all of them must then
            call the loss in every step. Costs one all-reduce of C x (D + 1) numbers.
        loss_weight (float): Factor of the loss, >= 0.
        ignore_index (int): Label of pixels that take no part.
        loss_name (str): Name in the log; must contain "loss" to be optimised.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self,
                 num_queries: int = 256,
                 num_negatives: int = 512,
                 temperature: float = 0.5,
                 strong_threshold: float = 0.97,
                 query_sampler: ConfigType = dict(type='ActiveQuerySampler'),
                 key_sampler: ConfigType = dict(type='ActiveKeySampler'),
                 sync_prototypes: bool = True,
                 loss_weight: float = 1.0,
                 ignore_index: int = 255,
                 loss_name: str = 'loss_reco') -> None:
        super().__init__()
        self.num_queries = num_queries
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.strong_threshold = strong_threshold
        self.query_sampler = TASK_UTILS.build(query_sampler)
        self.key_sampler = TASK_UTILS.build(key_sampler)
        self.sync_prototypes = sync_prototypes
        self.loss_weight = loss_weight
        self.ignore_index = ignore_index
        self.loss_name = loss_name
        self.diagnostics: dict[str, Tensor] = dict()
        self.prototypes: Tensor | None = None
        self.relation: Tensor | None = None
        self.present: Tensor | None = None
        self.check()

    def check(self) -> None:
        """Refuse hyper-parameters out of their range (also after a schedule changed them)."""
        for name in ('num_queries', 'num_negatives'):
            check_count(f'ReCoLoss: {name}', getattr(self, name))
        check_positive('ReCoLoss: temperature', self.temperature)
        if not 0 < self.strong_threshold <= 1:
            raise ValueError('ReCoLoss: strong_threshold is a probability in (0, 1], got '
                             f'{self.strong_threshold!r}')
        check_loss(self)

    def forward(self,
                embeddings: Tensor,
                labels: Tensor,
                probs: Tensor,
                generator: torch.Generator | None = None) -> Tensor:
        """Sample and contrast.

        Args:
            embeddings (Tensor): Representations. Shape (B, D, h, w), any float dtype.
            labels (Tensor): Labels or pseudo-labels; ``ignore_index`` where a pixel is not valid.
                Shape (B, h, w), int64.
            probs (Tensor): Predicted probability of every class, used without gradient. Shape
                (B, C, h, w).
            generator (torch.Generator, optional): Source of randomness, on the same device.

        Returns:
            Tensor: Scalar, float32 (float64 for float64 embeddings).
        """
        num_classes = probs.size(1)
        with torch.autocast(embeddings.device.type, enabled=False):
            with torch.no_grad():
                labels = labels.flatten(1)
                labels = labels.masked_fill(labels == self.ignore_index, -1)
                own_probs = probs.flatten(2).gather(1, labels.clamp(0, num_classes - 1)[:, None])
                # In float32: bfloat16 would round the threshold itself.
                hard = own_probs.float() < self.strong_threshold
                index = build_pixel_index(labels.flatten(), hard.flatten(), num_classes)
                present = index.count > 0

                means, known = class_means(embeddings.flatten(2).transpose(1, 2), labels,
                                           index.count, self.sync_prototypes)
                prototypes = unit_vectors(means)
                relation = prototypes @ prototypes.t()

                queries, active = self.query_sampler.sample(index, self.num_queries, generator)
                class_probs = self.key_sampler.class_probs(relation, present, self.temperature)
                self.prototypes, self.relation, self.present = prototypes, relation, known
                self.record(index, active, class_probs)
                active = active & (present.sum() >= 2)

            at_once = max(1, NEGATIVES_AT_ONCE // (self.num_queries * self.num_negatives))
            negatives = (self.key_sampler.sample(index, part, self.num_queries, self.num_negatives,
                                                 generator) for part in class_probs.split(at_once))
            losses = sampled_contrast(
                embeddings, queries, prototypes, negatives, active, self.temperature)
            return self.loss_weight * losses.mean(1).sum() / present.sum().clamp_min(1)

    def record(self, index: PixelIndex, active: Tensor, class_probs: Tensor) -> None:
        """Keep what hooks log, as detached tensors that nobody waits for."""
        self.diagnostics = dict(
            hard_query_share=index.hard_count.sum() / index.count.sum().clamp_min(1),
            classes_present=(index.count > 0).sum(),
            negatives_per_class=self.num_queries * self.num_negatives *
            (class_probs * active[:, None]).sum(0))
