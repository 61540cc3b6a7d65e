# Licensed under the Apache License, Version 2.0.
"""Score a finished run before and after its BN statistics are taken anew from clean images.

    python docs/results/clean_statistics.py RUN/config.py RUN/iter_4000.pth

Every fourth training image, as validation loads it, in batches of 8; the mean over all batches.
"""
import sys

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Subset

import mmseg_reco  # noqa: F401  registers the segmentors


@torch.no_grad()
def main(path: str, checkpoint: str) -> None:
    cfg = Config.fromfile(path)
    cfg.update(work_dir='work_dirs/clean_statistics', load_from=checkpoint, resume=False,
               train_dataloader=None, train_cfg=None, optim_wrapper=None, param_scheduler=None,
               custom_hooks=[], default_hooks=dict(checkpoint=None))
    runner = Runner.from_cfg(cfg)
    runner.val()
    train = cfg.val_dataloader.dataset.copy()
    train.update(ann_file='train.txt', data_prefix=dict(
        img_path='train', seg_map_path='trainannot'))
    images = DATASETS.build(dict(train, _scope_='mmseg'))
    images = Subset(images, range(0, len(images), 4))
    network = getattr(runner.model, 'teacher', runner.model)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    runner.model.eval()
    for norm in norms:
        norm.train()
    for batch in DataLoader(images, 8, shuffle=True, collate_fn=lambda samples: {
            key: [sample[key] for sample in samples] for key in samples[0]}):
        runner.model.test_step(batch)
    runner.model.eval()
    runner.val_loop.run()


if __name__ == '__main__':
    main(*sys.argv[1:])
