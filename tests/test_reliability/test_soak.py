# Licensed under the Apache License, Version 2.0.
"""A long run keeps its memory, its open files and its checkpoint folder as they were."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from mmseg_reco.datasets.demo_scenes import prepare
from mmseg_reco.engine import launch

ITERS, WARM_UP = 2000, 400
# The demo's ReCo + ClassMix, thinner, with a validation and a checkpoint far more often.
OPTIONS = {
    'model.segmentor.backbone.base_channels': 8,
    'model.segmentor.backbone.stem_channels': 8,
    'model.segmentor.decode_head.in_channels': 32,
    'model.segmentor.decode_head.c1_in_channels': 8,
    'model.segmentor.decode_head.channels': 16,
    'model.projector.channels': 16,
    'model.projector.embed_dims': 16,
    'train_dataloader.batch_size': 4,
    'train_dataloader.sampler.batch_size': 4,
    'train_dataloader.num_workers': 1,
    'train_cfg.max_iters': ITERS,
    'train_cfg.val_interval': 200,
    'default_hooks.checkpoint.interval': 50,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
    'default_hooks.checkpoint.save_best': 'teacher/mIoU',
}


@HOOKS.register_module(force=True)
class Gauge(Hook):
    """Notes resident memory, open files and checkpoints every 20 iterations."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.readings = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.every_n_train_iters(runner, 20):
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            self.readings.append(dict(
                iter=runner.iter + 1, rss=pages * os.sysconf('SC_PAGE_SIZE'),
                files=len(os.listdir('/proc/self/fd')),
                checkpoints=len(list(Path(runner.work_dir).glob('*.pth')))))

    def after_train(self, runner):
        Path(runner.work_dir, 'gauge.json').write_text(json.dumps(self.readings))


def soak(config: str, work_dir: Path, data_root: str) -> None:
    os.environ['DEMO_DATA_ROOT'] = data_root
    torch.set_num_threads(1)
    cfg = launch.load_config(config, OPTIONS, str(work_dir))
    launch.make_resumable(cfg)
    cfg.custom_hooks += [dict(type='NumericalWatchHook', action='skip'), dict(type='Gauge')]
    launch.build_runner(cfg).train()


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason="reads Linux' /proc")
def test_nothing_grows(tmp_path):
    prepare(str(tmp_path / 'data'), seed=0)
    config = Path('configs/demo/deeplabv3plus_r18-d16_demo-p0_reco-classmix.py').resolve()
    run = multiprocessing.get_context('spawn').Process(
        target=soak, args=(str(config), tmp_path / 'run', str(tmp_path / 'data')))
    run.start()
    run.join()
    assert run.exitcode == 0

    readings = json.loads((tmp_path / 'run/gauge.json').read_text())
    warm = [reading for reading in readings if reading['iter'] > WARM_UP]
    assert warm[-1]['iter'] == ITERS
    iters, rss = (np.array([reading[key] for reading in warm]) for key in ('iter', 'rss'))
    slope = np.polyfit(iters, rss, 1)[0]
    growth = slope * (ITERS - WARM_UP) / rss.mean()
    print(f'memory {rss.mean() / 2**20:.0f} MiB, from {rss.min() / 2**20:.1f} to '
          f'{rss.max() / 2**20:.1f}; {slope:+.0f} bytes an iteration, {growth:+.2%} in all')
    assert abs(growth) < 0.02
    files = [reading['files'] for reading in warm]
    assert max(files) <= files[0]
    # two of the schedule's, and the best
    assert max(reading['checkpoints'] for reading in readings) == 3
