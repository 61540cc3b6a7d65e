# Licensed under the Apache License, Version 2.0.
"""The README's examples, as they stand there."""
import json
import re
from pathlib import Path
from statistics import fmean, stdev

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS

from mmseg_reco.datasets.checks import quick_check

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
    for name, images in dict(labeled=(0, 1), unlabeled=(2, 3, 4), train=(0, 1, 2, 3, 4),
                             val=(5, )).items():
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


def test_partial_labels_of_own_data(example):
    """The recipe below the five lines: all training images, and none of validation."""
    call, = re.findall(r'`(dict\(type=.PartialLabelDataset.*?\))`', README)
    base = Config.fromfile('my_data.py')
    data = eval(call, dict(dict=dict, _base_=base))
    data = DATASETS.build(dict(type='LabeledUnlabeledDataset', dataset=data))
    val = DATASETS.build(example.val_dataloader.dataset)
    assert [len(part) for part in data.datasets] == [5, 5] and len(val) == 1
    assert not quick_check(data, val, example.model)[0]


def test_supervised_example_sees_labelled_images_alone(example):
    page = (ROOT / 'docs/your_model.md').read_text()
    code, = re.findall(r'```python\n(# supervised_reco.py\n.*?)```', page, re.DOTALL)
    Path('supervised_reco.py').write_text(code)
    cfg = Config.fromfile('supervised_reco.py')
    data, val = (DATASETS.build(cfg[f'{part}_dataloader'].dataset) for part in ('train', 'val'))
    assert [Path(data.get_data_info(i)['img_path']).stem for i in range(len(data))] == [
        'image 0', 'image 1']
    assert not quick_check(data, val, cfg.model)[0]


#: Protocol and setting of the columns of the README's two tables of CamVid.
COLUMNS = {
    '20 images, 1,500 iterations': ('camvid-cpu', 'semi-20'),
    '20 images, 4,000': ('camvid-cpu-long', 'semi-20'),
    'p0, 1,500': ('camvid-cpu', 'p0'),
    'p0, 4,000': ('camvid-cpu-long', 'p0'),
    '5 images': ('camvid-cpu', 'semi-5'),
    '50 images': ('camvid-cpu', 'semi-50'),
    'p1': ('camvid-cpu', 'p1'),
    'p5': ('camvid-cpu', 'p5'),
    'p25': ('camvid-cpu', 'p25'),
}
ROWS = {'supervised': 'supervised', 'ClassMix': 'classmix', 'ClassMix + ReCo': 'reco-classmix'}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r'[+-]?\d+\.\d', cell)]


@pytest.mark.parametrize('column', COLUMNS)
def test_results_are_the_published_ones(column: str) -> None:
    table = next(table for table in re.findall(r'(?:^ *\|.*\n)+', README, re.MULTILINE)
                 if f'| {column} |' in table)
    header, _, *rows = ([cell.strip() for cell in line.strip().strip('|').split('|')]
                        for line in table.splitlines())
    place, (protocol, setting) = header.index(column), COLUMNS[column]
    lines = (ROOT / f'docs/results/{protocol}.jsonl').read_text().splitlines()
    scores: dict[str, dict[int, float]] = {name: {} for name in ROWS.values()}
    for line in map(json.loads, lines):
        if line['setting'] == setting and line['row'] in scores:
            scores[line['row']][line['seed']] = line['mIoU']

    assert [row[0] for row in rows] == list(ROWS)
    for row in rows:
        own, base = scores[ROWS[row[0]]], scores['supervised']
        spread = [stdev(own.values())] if len(own) > 1 else []
        mean = [fmean(own.values())] if own else []
        assert numbers(row[place]) == pytest.approx(mean + spread, abs=0.051)
        leads = [] if own is base else [own[seed] - base[seed] for seed in sorted(own)]
        assert numbers(row[place + 1]) == pytest.approx(leads, abs=0.051)
