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

import cv2
import numpy as np
import torch
from measure import bar
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS

import mmseg_reco  # noqa: F401  registers everything


def spread(values: list[float], scale: float = 1e3) -> str:
    """Median and quartiles, of seconds in milliseconds."""
    low, median, high = np.percentile(values, [25, 50, 75]) * scale
    return f'{median:9.2f} [{low:.2f}, {high:.2f}]'


def time_transforms(dataset, samples: int) -> dict[str, list[float]]:
    """CPU seconds of each transform, sample by sample; the last entry is their sum."""
    seconds, warm_up = defaultdict(list), samples // 10
    for index in range(samples + warm_up):
        results = dataset.get_data_info(index % len(dataset))
        total = 0.0
        for transform in dataset.pipeline.transforms:
            start = time.process_time()
            results = transform(results)
            elapsed = time.process_time() - start
            total += elapsed
            if index >= warm_up:
                seconds[type(transform).__name__].append(elapsed)
        if index >= warm_up:
            seconds['sum'].append(total)
    return seconds


def build_loader(config: Config, workers: int):
    options = dict(
        config.train_dataloader, num_workers=workers, persistent_workers=workers > 0
    )
    return Runner.build_dataloader(options, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--samples', type=int, default=200, help='for the table of transforms')
    parser.add_argument('--workers', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=5, help='per turn')
    parser.add_argument('--turns', type=int, default=4)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope('mmseg')

    dataset = DATASETS.build(config.train_dataloader.dataset)
    for number, part in enumerate(getattr(dataset, 'datasets', [dataset])):
        print(f'\npart {number}, {len(part)} images: CPU ms a sample, median [quartiles], mean')
        for name, seconds in time_transforms(part, args.samples).items():
            print(f'{name:24}{spread(seconds):>26}{1e3 * np.mean(seconds):9.2f}')

    loaders = {workers: build_loader(config, workers) for workers in args.workers}
    batches = {workers: iter(loader) for workers, loader in loaders.items()}
    batch_size = config.train_dataloader.batch_size
    print(f'\nloader alone, batches of {batch_size}: ms a batch, median [quartiles]')
    for workers, iterator in batches.items():
        for _ in range(2 + 4 * workers):  # what was loaded ahead
            next(iterator)
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(10):
                next(iterator)
            seconds.append((time.perf_counter() - start) / 10)
        print(f'{workers} workers{spread(seconds):>26}')

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = MODELS.build(config.model).to(device).train()
    model = model if device == 'cuda' else revert_sync_batchnorm(model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    ready = next(batches[args.workers[0]])
    model.train_step(ready, optimizer)  # warms up
    batches = {'ready': None, **batches}
    waits, steps, work = defaultdict(list), defaultdict(list), defaultdict(list)
    for _ in bar(range(args.turns)):
        for name, iterator in batches.items():
            for _ in range(args.steps):
                start = time.perf_counter()
                batch = ready if iterator is None else next(iterator)
                middle, cpu = time.perf_counter(), time.process_time()
                model.train_step(batch, optimizer)
                if device == 'cuda':
                    torch.cuda.synchronize()
                work[name].append(time.process_time() - cpu)
                waits[name].append(middle - start)
                steps[name].append(time.perf_counter() - start)
    print(f'\n{device}, {torch.get_num_threads()} thread(s): ms, median [quartiles]')
    print(f'{"batch from":16}{"whole step":>30}{"of it waiting":>30}{"CPU of train_step":>30}')
    for name in batches:
        label = 'memory' if name == 'ready' else f'{name} workers'
        print(
            f'{label:16}{spread(steps[name]):>30}{spread(waits[name]):>30}{spread(work[name]):>30}'
        )


if __name__ == '__main__':
    main()
