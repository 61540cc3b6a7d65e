# Licensed under the Apache License, Version 2.0.
"""Score a finished run on CamVid before and after its BN statistics are taken anew.

From every fourth training image, labelled or not, as validation loads it, in batches of 8: the mean
over all batches. It tells what of a network's score is its statistics.
"""

import argparse
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Subset

from mmseg_reco.engine.command_line import usage_errors
from mmseg_reco.engine.offline import read_config


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: python tools/experiments/clean_statistics.py RUN/config.py '
        'RUN/iter_1500.pth')
    parser.add_argument('config', help='of a run on CamVid')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/clean_statistics'))
    args = parser.parse_args()
    with usage_errors(parser):
        cfg = read_config(args.config)
    cfg.update(work_dir=str(args.work_dir), load_from=args.checkpoint, resume=False,
               train_dataloader=None, train_cfg=None, optim_wrapper=None, param_scheduler=None,
               custom_hooks=[], default_hooks=dict(checkpoint=None))
    runner = Runner.from_cfg(cfg)
    runner.val()

    images = DATASETS.build(dict(
        cfg.val_dataloader.dataset, ann_file='train.txt',
        data_prefix=dict(img_path='train', seg_map_path='trainannot'), _scope_='mmseg'))
    network = getattr(runner.model, 'teacher', runner.model)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    runner.model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    generator = torch.Generator().manual_seed(0)
    for batch in DataLoader(Subset(images, range(0, len(images), 4)), 8, shuffle=True,
                            collate_fn=pseudo_collate, generator=generator):
        runner.model.test_step(batch)
    runner.val_loop.run()


if __name__ == '__main__':
    main()
