# Licensed under the Apache License, Version 2.0.
"""Time the data of a config: every transform, the loader alone, and how long a step waits for it.

The step runs on the machine's CPU (or GPU): once on a batch that lies ready, and with loaders of
several numbers of worker processes, in turns. What a step waits for data is the time spent in
``next(loader)``; what loading costs in all is the step's time beyond that on the ready batch.

    OMP_NUM_THREADS=1 python tools/benchmarks/data_loading.py CONFIG
"""

import argparse
import time
from collections import defaultdict
from functools import partial

import cv2
import numpy as np
import torch
from measure import bar, machine, spread, timed
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS

import mmseg_reco  # noqa: F401  registers everything
from mmseg_reco.engine.command_line import positive_int


def time_transforms(dataset, samples: int) -> dict[str, list[float]]:
    """CPU ms of each transform, sample by sample; the last entry is their sum."""
    taken, warm_up = defaultdict(list), samples // 10
    for index in range(samples + warm_up):
        results = dataset.get_data_info(index % len(dataset))
        total = 0.0
        for transform in dataset.pipeline.transforms:
            start = time.process_time()
            results = transform(results)
            elapsed = 1e3 * (time.process_time() - start)
            total += elapsed
            if index >= warm_up:
                taken[type(transform).__name__].append(elapsed)
        if index >= warm_up:
            taken['sum'].append(total)
    return taken


def build_loader(config: Config, workers: int):
    options = dict(
        config.train_dataloader, num_workers=workers, persistent_workers=workers > 0
    )
    return Runner.build_dataloader(options, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--samples', type=positive_int, default=200,
                        help='for the table of transforms')
    parser.add_argument('--workers', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--steps', type=positive_int, default=5, help='in a round')
    parser.add_argument('--rounds', type=positive_int, default=4)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope('mmseg')

    dataset = DATASETS.build(config.train_dataloader.dataset)
    for number, part in enumerate(getattr(dataset, 'datasets', [dataset])):
        print(f'\npart {number}, {len(part)} images: CPU ms a sample, median [quartiles], mean')
        for name, taken in time_transforms(part, args.samples).items():
            print(f'{name:24}{spread(taken, 2):>26}{np.mean(taken):9.2f}')

    loaders = {workers: build_loader(config, workers) for workers in args.workers}
    batches = {workers: iter(loader) for workers, loader in loaders.items()}
    batch_size = config.train_dataloader.batch_size
    print(f'\nloader alone, batches of {batch_size}: ms a batch, median [quartiles]')
    for workers, iterator in batches.items():
        for _ in range(2 + 4 * workers):  # what was loaded ahead
            next(iterator)
        taken = []
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(10):
                next(iterator)
            taken.append(1e2 * (time.perf_counter() - start))
        print(f'{workers} workers{spread(taken, 2):>26}')

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model = MODELS.build(config.model).to(device).train()
    model = model if device.type == 'cuda' else revert_sync_batchnorm(model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    torch.backends.cudnn.benchmark = config.get('env_cfg', {}).get('cudnn_benchmark', False)
    ready = next(batches[args.workers[0]])
    model.train_step(ready, optimizer)  # warms up
    batches = {'ready': None, **batches}
    seconds = defaultdict(list)
    for _ in bar(range(args.rounds)):
        for name, iterator in batches.items():
            for _ in range(args.steps):
                start = time.perf_counter()
                batch = ready if iterator is None else next(iterator)
                wait = time.perf_counter() - start
                step = timed(partial(model.train_step, batch, optimizer), device)
                seconds[name].append((wait + step.wall, wait, step.cpu))
    print(f'\n{machine(device)}: ms, median [quartiles]')
    print(f'{"batch from":16}{"whole step":>30}{"of it waiting":>30}{"CPU of train_step":>30}')
    for name, rows in seconds.items():
        label = 'memory' if name == 'ready' else f'{name} workers'
        columns = (spread(column, 2) for column in 1e3 * np.array(rows).T)
        print(f'{label:16}' + ''.join(f'{column:>30}' for column in columns))


if __name__ == '__main__':
    main()
