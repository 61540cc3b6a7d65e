# Licensed under the Apache License, Version 2.0.
"""The benchmark of the start runs, and the check before training goes through the names once."""

import re
import sys

import pytest
from mmseg.registry import DATASETS

from mmseg_reco.datasets import checks, files


@pytest.mark.skipif(sys.platform != 'linux', reason="reads Linux' account of memory")
def test_benchmark_prints_every_step(run_benchmark):
    printed = run_benchmark('dataset_start', '--names', 150, '--rounds', 1)
    rows = re.findall(r'^ +150 (\w+, \w+) +(\w+) +\d', printed, re.MULTILINE)
    assert rows == [
        ('stock, list', 'dataset'), ('stock, folder', 'dataset'),
        ('ours, lists', 'dataset'), ('ours, lists', 'sampler'), ('ours, lists', 'CheckDataHook'),
        ('ours, folder', 'dataset'), ('ours, folder', 'sampler'),
        ('ours, folder', 'CheckDataHook')]


def test_check_runs_through_the_names_once(tmp_path, monkeypatch):
    """Neither a second run nor a system call for a name: what 300,000 names would multiply."""
    (tmp_path / 'images').mkdir()
    names = [f'{number:03d}' for number in range(200)]
    for name in names:
        (tmp_path / f'images/{name}.jpg').write_bytes(b'')
    data = DATASETS.build(dict(
        type='BaseSegDataset', data_root=str(tmp_path), data_prefix=dict(img_path='images'),
        pipeline=[]))
    infos, folders = [], []

    def get_data_info(self, index):
        infos.append(index)
        return dict(img_path=f'{tmp_path}/images/{names[index]}.jpg')

    def list_files(folder):
        folders.append(folder)
        return files.list_files(folder)

    monkeypatch.setattr(type(data), 'get_data_info', get_data_info)
    monkeypatch.setattr(checks, 'list_files', list_files)
    assert checks.quick_check(data) == ([], [])
    assert infos[:200] == list(range(200)) and len(infos) <= 200 + checks.QUICK_PAIRS
    assert folders == [f'{tmp_path}/images']
