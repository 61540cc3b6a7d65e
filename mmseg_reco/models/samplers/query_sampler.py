# Licensed under the Apache License, Version 2.0.

import torch
from mmseg.registry import TASK_UTILS
from torch import Tensor

from .pixel_index import PixelIndex, pick, uniform


@TASK_UTILS.register_module()
class RandomQuerySampler:
    """Queries drawn uniformly from all valid pixels of each class (an ablation of ReCo)."""

    def candidates(self, index: PixelIndex) -> Tensor:
        """Number of pixels of each class that may become queries. Shape (C,), int64."""
        return index.count

    def sample(self,
               index: PixelIndex,
               num_queries: int,
               generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw queries for every class, with replacement.

        Args:
            index (PixelIndex): Class-sorted pixels.
            num_queries (int): Queries of each class, Q.
            generator (torch.Generator, optional): Source of randomness, on the index' device.

        Returns:
            tuple[Tensor, Tensor]: Pixel ids of shape (C, Q), int64, and the classes that have
            candidates, shape (C,), bool. Rows of other classes hold arbitrary pixels.
        """
        sizes = self.candidates(index)
        classes = torch.arange(sizes.numel(), device=sizes.device)[:, None]
        draws = uniform(sizes.numel(), num_queries, device=sizes.device, generator=generator)
        return pick(index, classes, sizes, draws), sizes > 0


@TASK_UTILS.register_module()
class ActiveQuerySampler(RandomQuerySampler):
    """Queries drawn uniformly from the hard pixels of each class (ReCo's active hard sampling).

    A pixel is hard where the predicted probability of its own class is below the strong threshold.
    """

    def candidates(self, index: PixelIndex) -> Tensor:
        return index.hard_count
