# Licensed under the Apache License, Version 2.0.
"""Configs of this package under mmseg's own ``tools/train.py`` and ``mim train``, as they stand."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmseg.apis import inference_model, init_model

from mmseg_reco.datasets.demo_scenes import prepare

ROOT = Path(__file__).resolve().parents[2]
STOCK_TRAIN = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'train.py'
RECO = ROOT / 'configs/demo/deeplabv3plus_r18-d16_demo-p0_reco-classmix.py'
RC2L = ROOT / 'configs/rc2l/deeplabv3plus_m-v2_camvid_semi-20_rc2l.py'


def run(command, where, *options):
    """Two iterations and a validation; what the process printed."""
    settings = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2',
                'default_hooks.logger.interval=1', 'default_hooks.checkpoint.interval=2',
                'train_dataloader.num_workers=0',
                'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
                'val_dataloader.persistent_workers=False', *options]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))), CUDA_VISIBLE_DEVICES='',
        DEMO_DATA_ROOT=str(where / 'data'))
    done = subprocess.run(
        [*map(str, command), '--work-dir', str(where / 'work'), '--cfg-options', *settings],
        cwd=where, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (where / 'work' / 'iter_2.pth').exists()
    text = done.stdout + done.stderr  # where the log goes is mmengine's affair
    assert 'teacher/mIoU' in text and 'student/mIoU' in text
    return text


def test_reco_under_stock_train(tmp_path):
    prepare(str(tmp_path / 'data'), num_train=12, num_val=2, num_labeled=6)
    # the arguments that mim passes on one GPU or a CPU
    text = run([sys.executable, STOCK_TRAIN, RECO, '--launcher', 'none'], tmp_path)
    assert 'loss_reco' in text
    weights = torch.load(tmp_path / 'work/iter_2.pth', weights_only=True)['state_dict']
    assert {name.split('.')[0] for name in weights} >= {'student', 'teacher'}
    predict_with_stock_tools(tmp_path)


def predict_with_stock_tools(where):
    """mmseg's inference takes the run's own config and checkpoint, and its teacher predicts."""
    config, = (where / 'work').glob('*.py')
    config.write_text(config.read_text() + 'test_pipeline = [dict(type="LoadImageFromFile"), '
                      'dict(type="PackSegInputs")]\n')
    model = init_model(str(config), str(where / 'work/iter_2.pth'), device='cpu')
    image = str(next((where / 'data').rglob('images/**/*.*g')))
    logits = inference_model(model, image).seg_logits.data
    for network, same in ((model.student, True), (model.teacher, False)):
        torch.nn.init.zeros_(network.decode_head.conv_seg.weight)
        assert torch.equal(inference_model(model, image).seg_logits.data, logits) == same


def test_rc2l_under_stock_train(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / 'data/camvid'
    parts = dict(train='abcdef', val='gh')
    for part, names in parts.items():
        for folder in (part, f'{part}annot'):
            (root / folder).mkdir(parents=True)
        for name in names:
            mask = np.kron(rng.integers(0, 12, (6, 8)), np.ones((30, 30))).astype(np.uint8)
            cv2.imwrite(str(root / part / f'{name}.png'), np.stack([mask * 20] * 3, -1))
            cv2.imwrite(str(root / f'{part}annot' / f'{name}.png'), mask)
        (root / f'{part}.txt').write_text('\n'.join(names))
    (root / 'splits/20/0').mkdir(parents=True)
    for name, names in dict(labeled='ab', unlabeled='cdef').items():
        (root / f'splits/20/0/{name}.txt').write_text('\n'.join(names))
    text = run(
        [sys.executable, STOCK_TRAIN, RC2L], tmp_path, 'train_dataloader.batch_size=4',
        'train_dataloader.sampler.batch_size=4', 'train_dataloader.sampler.burn_in=0',
        'model.semi_train_cfg.burn_in=0')
    assert 'loss_rmc' in text and 'loss_smc' in text


@pytest.mark.slow
@pytest.mark.skipif(find_spec('mim') is None, reason='openmim is not installed; what it starts is '
                    'tested by test_reco_under_stock_train')
def test_reco_under_mim(tmp_path):
    prepare(str(tmp_path / 'data'), num_train=12, num_val=2, num_labeled=6)
    assert 'loss_reco' in run(
        [sys.executable, '-m', 'mim', 'train', 'mmsegmentation', RECO, '--gpus', '0'], tmp_path)
