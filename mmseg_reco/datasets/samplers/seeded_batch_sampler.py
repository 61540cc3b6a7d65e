# Licensed under the Apache License, Version 2.0.
"""Batches that carry their own seed: augmentation does not depend on who loads them, or when.

The data of a run then depend on its seed, the rank and the number of the iteration only: not on
the number of workers, not on what they have fetched ahead, not on a run that stopped in between.
"""
# ruff: noqa: NPY002  transforms draw from the global generators

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from mmengine.dist import get_rank
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler


def seed_generators(*numbers: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, that of every GPU included.

    Args:
        *numbers (int): Whole numbers >= 0. Other numbers give an independent stream (where they
            differ in more than zeros at the end).
    """
    words = np.random.SeedSequence(numbers).generate_state(10)
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:8])
    torch.manual_seed(int.from_bytes(words[8:].tobytes(), 'little'))


@dataclass(frozen=True)
class SeededBatch:
    """Indices of a batch, which seed the global generators before they are gone through.

    PyTorch's DataLoader hands a batch to a worker as it is, and the worker, or the main process
    where there are none, loads ``dataset[index] for index in batch``.

    Attributes:
        indices (list[int]): Dataset indices.
        seed (tuple[int, ...]): For :func:`seed_generators`.
    """

    indices: list[int]
    seed: tuple[int, ...]

    def __iter__(self) -> Iterator[int]:
        seed_generators(*self.seed)
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


@DATA_SAMPLERS.register_module()
class SeededBatchSampler(Sampler):
    """Endless :class:`SeededBatch` es of any batch sampler, from any iteration on.

    To start at iteration N, the indices of the N batches before are drawn, but no image is
    loaded: 0.03 s for 40,000 batches of 8. Set up by ``ResumableTrainLoop``.

    Args:
        sampler (Sampler): Gives the indices. Its order must follow from its ``seed`` alone, as
            that of ``InfiniteSampler``, ``DefaultSampler`` and ``MultiSourceSampler`` does.
        batch_size (int): Images per batch.
        batch_sampler (dict, optional): Config of the batch sampler; PyTorch's if None.
        drop_last (bool): Of PyTorch's batch sampler.
    """

    def __init__(self,
                 sampler: Sampler,
                 batch_size: int,
                 batch_sampler: dict | None = None,
                 drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        if batch_sampler is None:
            self.batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            self.batches = DATA_SAMPLERS.build(
                batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size))
        self.start(0, 0)

    def start(self, batch: int, seed: int) -> None:
        """Say where the next iterator starts.

        Args:
            batch (int): Number of the first batch, >= 0.
            seed (int): Seed of the run, >= 0.
        """
        self.first, self.seed = batch, seed

    def __iter__(self) -> Iterator[SeededBatch]:
        rank = get_rank()
        for number, indices in islice(enumerate(self._endless()), self.first, None):
            yield SeededBatch(indices, (self.seed, rank, number))

    def _endless(self) -> Iterator[list[int]]:
        for epoch in count():
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            indices = None
            for indices in self.batches:
                yield indices
            if indices is None:
                raise ValueError(f'The training data do not fill one batch of {self.batch_size}: '
                                 'lower batch_size or leave drop_last out.')

    def __len__(self) -> int:
        """Number of batches of one epoch; the sequence itself does not end."""
        return len(self.batches)
