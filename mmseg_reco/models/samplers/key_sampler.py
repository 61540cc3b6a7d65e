# Licensed under the Apache License, Version 2.0.

import torch
from mmseg.registry import TASK_UTILS
from torch import Tensor

from .pixel_index import PixelIndex, pick, uniform


@TASK_UTILS.register_module()
class ActiveKeySampler:
    """Negative keys from classes close to that of the query (ReCo's active hard sampling).

    The class of every key of class c is drawn from softmax over q != c of G[c, q] / temperature,
    where G is the class relation graph, then a pixel uniformly from the valid pixels of that class.
    """

    def class_logits(self, relation: Tensor, temperature: float) -> Tensor:
        """Unnormalised log-probability of each negative class. Shape (C, C)."""
        return relation.double() / temperature

    def class_probs(self, relation: Tensor, present: Tensor, temperature: float) -> Tensor:
        """Distribution of the negative class of each query class.

        Args:
            relation (Tensor): Class relation graph G, cosine of the prototypes. Shape (C, C).
            present (Tensor): Classes with valid pixels. Shape (C,), bool.
            temperature (float): Temperature of the softmax.

        Returns:
            Tensor: Probabilities of shape (C, C), float64; rows sum to one, or to zero where no
            other class is present.
        """
        itself = torch.eye(present.numel(), dtype=torch.bool, device=present.device)
        allowed = present[None] & ~itself
        logits = self.class_logits(relation, temperature).masked_fill(~allowed, -torch.inf)
        # A row without any allowed class would be softmax of -inf alone, NaN.
        return logits.softmax(1).masked_fill(~allowed, 0)

    def sample(self,
               index: PixelIndex,
               class_probs: Tensor,
               num_queries: int,
               num_negatives: int,
               generator: torch.Generator | None = None) -> Tensor:
        """Draw the negative keys of every query, independently, with replacement.

        One uniform number names both: which class' share of the cumulative distribution it falls
        into, and, by its place within that share, which pixel.

        Args:
            index (PixelIndex): Class-sorted pixels.
            class_probs (Tensor): Distribution of the negative class of each of K query classes, as
                :meth:`class_probs` gives it. Shape (K, C), float64.
            num_queries (int): Queries of each class, Q.
            num_negatives (int): Negative keys of each query, M.
            generator (torch.Generator, optional): Source of randomness, on the index' device.

        Returns:
            Tensor: Pixel ids of shape (K, Q, M), int64. Rows of classes without another present
            class hold arbitrary pixels.
        """
        rows, num_classes = class_probs.shape
        # In integers: a GPU adds up floats in any order, which deterministic mode refuses.
        cumulative = (class_probs * 2**52).long().cumsum(1).to(class_probs.dtype)
        # Exactly 1 at the end, so that no draw below 1 falls behind the last class.
        cumulative = cumulative / cumulative[:, -1:].clamp_min(1)
        draws = uniform(
            rows, num_queries * num_negatives, device=class_probs.device, generator=generator)
        classes = torch.searchsorted(cumulative, draws, right=True).clamp_(max=num_classes - 1)
        below = (cumulative - class_probs).gather(1, classes)
        share = class_probs.gather(1, classes).clamp_min_(torch.finfo(class_probs.dtype).tiny)
        within = draws.sub_(below).div_(share).clamp_(0, 1 - 2**-40)
        pixels = pick(index, classes, index.count, within)
        return pixels.view(rows, num_queries, num_negatives)


@TASK_UTILS.register_module()
class RandomKeySampler(ActiveKeySampler):
    """Negative keys from every other present class alike (an ablation of ReCo)."""

    def class_logits(self, relation: Tensor, temperature: float) -> Tensor:
        return torch.zeros_like(relation, dtype=torch.float64)
