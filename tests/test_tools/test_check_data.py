# Licensed under the Apache License, Version 2.0.
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REAL = Path('../shared/data/camvid').resolve()
CONFIG = """
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(
    type='LabeledUnlabeledDataset', labeled='labeled.txt', unlabeled='unlabeled.txt',
    dataset=dict(
        type='CamVidDataset', data_root='{root}', ann_file='train.txt', pipeline=pipeline,
        data_prefix=dict(img_path='train', seg_map_path='trainannot'))))
val_dataloader = dict(dataset=dict(
    type='CamVidDataset', data_root='{root}', ann_file='val.txt', pipeline=pipeline,
    data_prefix=dict(img_path='train', seg_map_path='trainannot')))
"""


def check(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['check_data.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path('tools/check_data.py', run_name='__main__')
    return stop.value.code


def rows_of(out):
    return [[cell.strip() for cell in line.split('|')[1:-1]]
            for line in out.splitlines() if line.startswith('|')]


@pytest.fixture
def config(tmp_path):
    for folder in ('train', 'trainannot'):
        (tmp_path / folder).mkdir()
    for name in 'abcdef':
        mask = np.full((8, 8), 11, np.uint8)
        mask[:4] = np.arange(8)
        Image.fromarray(mask).save(tmp_path / 'trainannot' / f'{name}.png')
        Image.new('RGB', (8, 8)).save(tmp_path / 'train' / f'{name}.png')
    for names, file in (('abcd', 'train'), ('ab', 'labeled'), ('cd', 'unlabeled'), ('ef', 'val')):
        (tmp_path / f'{file}.txt').write_text('\n'.join(names))
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(root=tmp_path))
    return path


def test_no_workers_are_refused(config, monkeypatch, capsys):
    assert check(monkeypatch, config, '--workers', 0) == 2
    assert '--workers: must be an integer, at least 1, got 0' in capsys.readouterr().err


def test_good_data(config, monkeypatch, capsys):
    assert check(monkeypatch, config, '--workers', 1) == 0
    out = capsys.readouterr().out
    assert 'The data are in order.' in out and 'BAD' not in out
    rows = rows_of(out)
    assert ['train.labeled', '2', '8 of 11', '50.00%', '0'] in rows
    assert ['sky', '12.500%', '12.500%', '12.500%'] in rows
    assert 'val has no pixel of: car, pedestrian, bicyclist.' in out


def test_shares_of_whole_masks_are_named_so(config, monkeypatch, capsys):
    options = ['train_dataloader.dataset.dataset.type=PartialCamVidDataset',
               'train_dataloader.dataset.dataset.level=p0']
    assert check(monkeypatch, config, '--workers', 1, '--cfg-options', *options) == 0
    rows = rows_of(capsys.readouterr().out)
    names = ['train.labeled, before p0', 'train.unlabeled', 'val']
    assert ['share of pixels with a class', *names] in rows
    assert ['sky', '12.500%', '12.500%', '12.500%'] in rows


def test_every_bad_file_is_named(config, monkeypatch, capsys):
    root = config.parent
    Image.new('RGB', (8, 8)).save(root / 'trainannot' / 'a.png')
    Image.new('L', (9, 8)).save(root / 'trainannot' / 'c.png')
    (root / 'train' / 'e.png').unlink()
    (root / 'val.txt').write_text('e\nf\nb')
    assert check(monkeypatch, config) == 1
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith('BAD')]
    assert bad == [
        f'BAD {root}/train/b.png: in train.labeled and in val',
        f"BAD {root}/trainannot/a.png: mask is of mode 'RGB', not an 8-bit image of class indices "
        'with one channel',
        f'BAD {root}/trainannot/c.png: mask is 9x8, but its image 8x8',
        f'BAD {root}/train/e.png: image is missing']


@pytest.mark.parametrize(('file', 'content', 'message'), [
    ('labeled.txt', '\n', 'labeled.txt lists no image'), ('val.txt', '', 'val.txt lists no image'),
    ('unlabeled.txt', None, "unlabeled.txt' does not exist"), ('train.txt', 'a\na', 'train.txt')])
def test_bad_lists(config, monkeypatch, capsys, file, content, message):
    if content is None:
        (config.parent / file).unlink()
    else:
        (config.parent / file).write_text(content)
    assert check(monkeypatch, config) == 1
    assert message in capsys.readouterr().out


def test_options_and_model(config, monkeypatch, capsys):
    options = ['model.decode_head.num_classes=19', 'val_dataloader.dataset.ann_file=nowhere.txt']
    assert check(monkeypatch, config, '--cfg-options', *options) == 1
    out = capsys.readouterr().out
    assert 'num_classes=19' in out and 'nowhere.txt' in out


@pytest.mark.skipif(not REAL.exists(), reason=f'{REAL} is not here')
def test_real_camvid(config, monkeypatch, capsys):
    val = 'val_dataloader.dataset.'
    inner = 'train_dataloader.dataset.dataset.'
    text = CONFIG.format(root=REAL).replace(
        "labeled='labeled.txt', unlabeled='unlabeled.txt',", '')
    config.write_text(text)
    assert check(monkeypatch, config, '--cfg-options', f'{val}data_prefix.img_path=val',
                 f'{val}data_prefix.seg_map_path=valannot', f'{inner}indices=60') == 0
    rows = {row[0]: row[1:] for row in rows_of(capsys.readouterr().out)}
    assert rows['val'][:2] == ['101', '11 of 11'] and rows['val'][-1] == '0'
    assert rows['train.labeled'] == rows['train.unlabeled']  # Case II: the same images
