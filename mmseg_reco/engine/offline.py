# Licensed under the Apache License, Version 2.0.
"""Models and training batches outside of a Runner, for tools that look at them."""

from collections.abc import Iterator, Sequence

import torch.nn as nn
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint, set_random_seed
from mmseg.registry import MODELS
from torch.utils.data import DataLoader

from mmseg_reco.datasets.samplers import seed_generators
from mmseg_reco.engine.checkpoint import check_fits, safe_checkpoint_loading
from mmseg_reco.engine.launch import batch_norm_for_cpu, load_config


def read_config(path: str, options: dict | None = None) -> Config:
    """Read and check a config as ``tools/train.py`` does.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A setting is misspelt.
    """
    cfg = load_config(path, options)
    init_default_scope(cfg.default_scope)
    if cfg.get('data_preprocessor') is not None:  # as mmengine does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg


def load_model(
    cfg: Config, checkpoint: str | None = None, trusted: Sequence[str] = ()
) -> nn.Module:
    """Build the model of a config on the device at hand, without its pretrained weights.

    Args:
        cfg (Config): The config; SyncBN in it becomes BN on a CPU.
        checkpoint (str, optional): Its weights; None for random ones, from the config's seed.
        trusted (Sequence[str]): Checkpoints that may be unpickled without restriction.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint is of another model.
    """
    if get_device() == 'cpu':
        batch_norm_for_cpu(cfg)
    set_random_seed(seed_of(cfg))
    model = MODELS.build(cfg.model)
    if checkpoint is not None:
        with safe_checkpoint_loading(trusted):
            loaded = load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
        check_fits(loaded, model, checkpoint, partly=False)
    return model.to(get_device())


def seed_of(cfg: Config) -> int:
    """The config's ``randomness.seed``; 0 where it has none."""
    return (cfg.get('randomness') or {}).get('seed') or 0


def training_loader(cfg: Config) -> DataLoader:
    """The training data in the order and with the random numbers of ``tools/train.py``.

    Iteration N of :func:`training_batches` gives what iteration N of
    :class:`~mmseg_reco.engine.runner.ResumableTrainLoop` trains on with the same
    ``randomness.seed``, on one process. Batches of labelled images alone, with which a
    ``MultiSourceSampler`` may begin, are passed over.
    """
    config = cfg.train_dataloader.copy()
    config.update(
        num_workers=0, persistent_workers=False,
        batch_sampler=dict(
            type='SeededBatchSampler', batch_sampler=config.get('batch_sampler'),
            drop_last=config.pop('drop_last', False)))
    config.pop('prefetch_factor', None)
    loader = Runner.build_dataloader(config, seed=seed_of(cfg))
    first = getattr(loader.batch_sampler.sampler, 'burn_in', 0)
    loader.batch_sampler.start(first, seed_of(cfg))
    return loader


def training_batches(cfg: Config, loader: DataLoader) -> Iterator[dict]:
    """Batches of :func:`training_loader`, each with the generators as its step finds them."""
    for iteration, batch in enumerate(loader, loader.batch_sampler.first):
        seed_generators(seed_of(cfg), 0, iteration, 1)
        yield batch
