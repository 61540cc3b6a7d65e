# Licensed under the Apache License, Version 2.0.
"""The README's examples, as they stand there."""
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The README's two configs beside a folder of images with spaces in their names."""
    generator = np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (tmp_path / 'my_data' / folder).mkdir(parents=True)
    for i in range(6):
        mask = np.zeros((70, 90), np.uint8)
        mask[:, 30 + 5 * i:] = 1
        mask[50:] = 2
        image = mask[..., None] * 80 + generator.integers(0, 40, (70, 90, 3))
        cv2.imwrite(str(tmp_path / f'my_data/masks/image {i}.png'), mask)
        cv2.imwrite(str(tmp_path / f'my_data/images/image {i}.png'), image.astype(np.uint8))
    for name, images in (('labeled', (0, 1)), ('unlabeled', (2, 3, 4)), ('val', (5, ))):
        (tmp_path / f'my_data/{name}.txt').write_text('\n'.join(f'image {i}' for i in images))
    data, reco = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    (tmp_path / 'my_data.py').write_text(data.replace('(512, 512)', '(64, 64)'))
    (tmp_path / 'my_reco.py').write_text(reco)
    monkeypatch.chdir(tmp_path)
    return Config.fromfile('my_reco.py')


def test_own_data_and_five_lines_take_a_step(example):
    example.model.segmentor.pretrained = None
    model = MODELS.build(example.model).train()
    for part in ('train_dataloader', 'val_dataloader'):
        example[part].update(num_workers=0)
    batch = next(iter(Runner.build_dataloader(example.train_dataloader, seed=0)))
    batch = model.data_preprocessor(batch, True)
    assert {name: len(x) for name, x in batch['inputs'].items()} == dict(sup=2, unsup=2)
    losses = model(**batch, mode='loss')
    assert {'loss_reco', 'loss_unsup', 'sup.decode.loss_ce', 'sup.aux.loss_ce'} <= set(losses)
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()

    batch = next(iter(Runner.build_dataloader(example.val_dataloader)))
    with torch.no_grad():
        result, = model.eval().val_step(batch)
    assert result.pred_sem_seg.shape == (70, 90)
