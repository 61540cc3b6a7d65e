# Licensed under the Apache License, Version 2.0.
"""Score a finished run on CamVid before and after its BN statistics are taken anew.

From every fourth training image, labelled or not, as validation loads it, in batches of 8: the mean
over all batches. It tells what of a network's score is its statistics.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn as nn
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Subset

from mmseg_reco.engine.checkpoint import safe_checkpoint_loading
from mmseg_reco.engine.command_line import add_trust_checkpoint, usage_errors
from mmseg_reco.engine.launch import build_runner
from mmseg_reco.engine.offline import read_config
from mmseg_reco.utils import is_batch_norm


@torch.no_grad()
def take_statistics(model: nn.Module, batches: Iterable[dict]) -> None:
    """Make a network's BN statistics means over batches; of the teacher, where there is one.

    Args:
        model (nn.Module): A segmentor; it ends in eval mode.
        batches (Iterable[dict]): As a dataloader gives them for validation.
    """
    network = getattr(model, 'teacher', model)
    model.eval()
    for norm in filter(is_batch_norm, network.modules()):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in batches:
        data = model.data_preprocessor(batch, False)
        network.predict(data['inputs'], data['data_samples'])
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: python tools/experiments/clean_statistics.py RUN/config.py '
        'RUN/iter_1500.pth')
    parser.add_argument('config', help='of a run on CamVid')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/clean_statistics'))
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    with usage_errors(parser):
        cfg = read_config(args.config)
        cfg.update(work_dir=str(args.work_dir), load_from=args.checkpoint, resume=False,
                   train_dataloader=None, train_cfg=None, optim_wrapper=None, param_scheduler=None,
                   custom_hooks=[], test_dataloader=cfg.val_dataloader,
                   test_evaluator=cfg.val_evaluator, test_cfg=dict(type='TestLoop'),
                   val_dataloader=None, val_evaluator=None, val_cfg=None)
        with safe_checkpoint_loading(args.trust_checkpoint):
            runner = build_runner(cfg)
            runner.test()
    images = DATASETS.build(dict(
        cfg.test_dataloader.dataset, ann_file='train.txt',
        data_prefix=dict(img_path='train', seg_map_path='trainannot'), _scope_='mmseg'))
    take_statistics(runner.model, DataLoader(
        Subset(images, range(0, len(images), 4)), 8, shuffle=True, collate_fn=pseudo_collate,
        generator=torch.Generator().manual_seed(0)))
    runner.test_loop.run()


if __name__ == '__main__':
    main()
