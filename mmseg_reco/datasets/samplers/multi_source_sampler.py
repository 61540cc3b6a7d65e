# Licensed under the Apache License, Version 2.0.
"""Batches with a fixed share of labelled and unlabelled images."""

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
from mmengine.dataset import ConcatDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from mmseg_reco.utils import check_not_negative


@DATA_SAMPLERS.register_module()
class MultiSourceSampler(Sampler):
    """Endless indices in which every batch draws from each source in a fixed ratio.

    Same name and arguments as mmdet's. Each source is run through again and again, in a new random
    order every time, and the sources independently of each other; the ranks take turns on that
    sequence, so that they see different images. A source may hold fewer images than a batch.
    Within a batch the sources stand in order: first all images of source 0.

    Args:
        dataset (ConcatDataset): The sources are its ``datasets``.
        batch_size (int): Images per batch on one device: the dataloader's ``batch_size``.
        source_ratio (list[int]): Parts of the batch that each source gets, each above 0.
        shuffle (bool): Whether the order is random.
        seed (int, optional): Seed of the order, the same on all ranks. None: drawn and shared.
        burn_in (int): The first that many batches are all of source 0; for
            ``semi_train_cfg.burn_in``, in which the unlabelled half would be loaded for nothing.

    Raises:
        ValueError: If the dataset has no sources, if the ratio does not fit the number of sources
            or does not divide the batch, if a source is empty, or if ``burn_in`` is negative.
    """

    def __init__(self,
                 dataset: ConcatDataset,
                 batch_size: int,
                 source_ratio: list[int],
                 shuffle: bool = True,
                 seed: int | None = None,
                 burn_in: int = 0) -> None:
        check_not_negative('MultiSourceSampler: burn_in', burn_in)
        if not hasattr(dataset, 'cumulative_sizes'):
            raise ValueError(f'MultiSourceSampler needs a ConcatDataset, such as '
                             f'LabeledUnlabeledDataset, but got {type(dataset).__name__}.')
        self.num_per_source = split_batch(batch_size, source_ratio, len(dataset.datasets))
        for number, source in enumerate(dataset.datasets):
            if len(source) == 0:
                raise ValueError(f'Source {number} of the training data holds no image: check '
                                 f"its list '{getattr(source, 'ann_file', '')}' and its folders.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.burn_in = burn_in
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()

    def _indices(self, source: int) -> Iterator[int]:
        """Endless dataset indices of one source, for all ranks."""
        size = len(self.dataset.datasets[source])
        start = self.dataset.cumulative_sizes[source] - size
        rng = np.random.default_rng([self.seed, source])
        while True:
            order = rng.permutation(size) if self.shuffle else np.arange(size)
            yield from (start + order).tolist()

    def __iter__(self) -> Iterator[int]:
        """Endless dataset indices of this rank, batch by batch."""
        sources = [
            islice(self._indices(source), self.rank, None, self.world_size)
            for source in range(len(self.num_per_source))
        ]
        alone = [self.batch_size] + [0] * (len(sources) - 1)
        for batch in count():
            shares = alone if batch < self.burn_in else self.num_per_source
            for indices, num in zip(sources, shares, strict=True):
                yield from islice(indices, num)

    def __len__(self) -> int:
        """Number of images of all sources; the sequence itself does not end."""
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the sequence goes on through the epochs."""


def split_batch(batch_size: int, source_ratio: list[int], num_sources: int) -> list[int]:
    """Images per source in a batch.

    Args:
        batch_size (int): Images per batch.
        source_ratio (list[int]): Parts that each source gets.
        num_sources (int): Number of sources.

    Returns:
        list[int]: Images per source; their sum is ``batch_size``.

    Raises:
        ValueError: If the ratio does not fit the number of sources or does not divide the batch.
    """
    if len(source_ratio) != num_sources:
        raise ValueError(f'source_ratio {source_ratio} must have one entry for each of the '
                         f'{num_sources} sources of the training data.')
    if not all(isinstance(part, int) and part > 0 for part in source_ratio):
        raise ValueError(f'source_ratio {source_ratio} must consist of whole numbers above 0.')
    total = sum(source_ratio)
    if any(batch_size * part % total for part in source_ratio):
        raise ValueError(f'A batch of {batch_size} cannot be shared out as {source_ratio}: make '
                         f'batch_size a multiple of {total}.')
    return [batch_size * part // total for part in source_ratio]
