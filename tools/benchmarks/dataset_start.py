# Licensed under the Apache License, Version 2.0.
"""Time and memory that a data set of many names costs before the first batch.

A folder of tiny images (links to a few files, so that 300,000 take seconds and no space) is built
into stock mmseg's dataset and into LabeledUnlabeledDataset, from a list of names and from the
folder itself; then the sampler is asked for its first batch, and CheckDataHook runs. Every row is
a process of its own.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from measure import bar, held, machine, timed
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

import mmseg_reco  # noqa: F401  registers everything
from mmseg_reco.datasets import MultiSourceSampler
from mmseg_reco.engine.command_line import positive_int
from mmseg_reco.engine.hooks import CheckDataHook

CLASSES = 'field', 'road', 'house'
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
LABELED, VALIDATED = 100, 500
CPU = torch.device('cpu')
LINKS = 1000  # names of one file; file systems allow some ten thousand


def draw(root: Path, names: int) -> None:
    """Folders ``images``, ``val`` and ``masks``, and the lists."""
    for folder in ('images', 'val', 'masks'):
        (root / folder).mkdir()
    stems = [f'{index % 100:02d}-scene_{index:08d}' for index in range(names)]
    for number, stem in enumerate(bar(stems)):
        path = root / 'images' / f'{stem}.png'
        if number % LINKS == 0:
            source = path
            Image.new('RGB', (8, 8)).save(source)
        else:
            os.link(source, path)
    for stem in stems[:LABELED]:
        Image.new('L', (8, 8)).save(root / 'masks' / f'{stem}.png')
    for index in range(VALIDATED):
        Image.new('RGB', (8, 8)).save(root / 'val' / f'val_{index}.png')
        Image.new('L', (8, 8)).save(root / 'masks' / f'val_{index}.png')
    for name, part in (('labeled', stems[:LABELED]), ('unlabeled', stems[LABELED:]),
                       ('all', stems)):
        (root / f'{name}.txt').write_text('\n'.join(part) + '\n')


def stock(root: Path, **changes) -> dict:
    """Config of mmseg's own dataset."""
    return {**dict(
        type='BaseSegDataset', data_root=str(root), img_suffix='.png', pipeline=PIPELINE,
        metainfo=dict(classes=CLASSES),
        data_prefix=dict(img_path='images', seg_map_path='masks')), **changes}


def configs(root: Path) -> dict[str, dict]:
    """What is built, by its name in the table."""
    semi = dict(type='LabeledUnlabeledDataset', dataset=stock(root), labeled='labeled.txt')
    return {
        'stock, list': stock(root, ann_file='all.txt'),
        'stock, folder': stock(root),
        'ours, lists': {**semi, 'unlabeled': 'unlabeled.txt'},
        'ours, folder': {**semi, 'unlabeled': dict(data_prefix=dict(img_path='images'))},
    }


def measure(step: Callable[[], object]) -> tuple[object, dict[str, float]]:
    """What a step returns, and its seconds and memory."""
    results, seconds = [], []
    memory = held(lambda: seconds.append(timed(lambda: results.append(step()), CPU)), CPU)
    return results[0], {**seconds[0]._asdict(), **memory._asdict()}


def start(config: dict, val: dict) -> dict[str, dict[str, float]]:
    """The figures of each step of a start, in this process."""
    figures = {}
    data, figures['dataset'] = measure(lambda: DATASETS.build(config))
    if config['type'] == 'BaseSegDataset':
        return figures

    def first_batch() -> tuple:
        sampler = MultiSourceSampler(data, 8, [1, 1], seed=0)
        iterator = iter(sampler)
        return sampler, iterator, [next(iterator) for _ in range(8)]

    (sampler, *_), figures['sampler'] = measure(first_batch)
    runner = SimpleNamespace(
        train_dataloader=DataLoader(data, 8, sampler=sampler),
        val_loop=SimpleNamespace(dataloader=DataLoader(DATASETS.build(val))),
        cfg={}, logger=logging.getLogger())
    _, figures['CheckDataHook'] = measure(lambda: CheckDataHook().before_train(runner))
    return figures


def in_a_process(function: Callable[..., dict], *arguments) -> dict:
    """Call it in a copy of this process, which leaves this one as it was."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(function(*arguments)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        sys.exit('error: a measurement failed, see above.')
    return json.loads(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  OMP_NUM_THREADS=1 python tools/benchmarks/dataset_start.py '
               '--names 100000 300000')
    parser.add_argument('--names', nargs='+', type=positive_int, default=[100_000, 300_000],
                        help=f'numbers of images, each above {LABELED} (default: 100000 300000)')
    parser.add_argument('--rounds', type=positive_int, default=3,
                        help='the median is shown (default: 3)')
    args = parser.parse_args()
    if min(args.names) <= LABELED:
        parser.error(f'--names takes numbers above {LABELED}')
    init_default_scope('mmseg')
    print(machine(CPU))
    print(f'median of {args.rounds}: wall seconds [least, most], processor seconds, '
          'MB kept, MB at most')
    for names in args.names:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            draw(root, names)
            val = stock(root, data_prefix=dict(img_path='val', seg_map_path='masks'))
            for label, config in configs(root).items():
                runs = [in_a_process(start, config, val) for _ in range(args.rounds)]
                for part in runs[0]:
                    values = {key: [run[part][key] for run in runs] for key in runs[0][part]}
                    low, wall, high = np.percentile(values.pop('wall'), [0, 50, 100])
                    cpu, peak, kept = (np.median(values[key]) for key in ('cpu', 'peak', 'kept'))
                    print(f'{names:8,} {label:14} {part:14} {wall:7.2f} [{low:.2f}, {high:.2f}] '
                          f'{cpu:7.2f} {kept / 1e6:7.1f} {peak / 1e6:7.1f}', flush=True)


if __name__ == '__main__':
    main()
