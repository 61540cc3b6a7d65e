# Licensed under the Apache License, Version 2.0.
"""Time partial labels: the converter's way, and a plain loop that dilates until enough is covered.

First masks in memory, level by level and all levels at once, both ways in turns in one process
and compared bit by bit; then files to files, with several numbers of processes, each of them
started for the purpose. Every round goes over all masks; medians and quartiles are over rounds.

    OMP_NUM_THREADS=1 python tools/benchmarks/partial_labels.py MASK_DIR
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
from measure import bar, spread
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / 'tools/dataset_converters'), str(REPO / 'tests')]

from oracles.partial_labels_oracle import sparsify_by_dilation  # noqa: E402
from partial_labels import convert, find_masks  # noqa: E402

from mmseg_reco.datasets.partial_labels import (  # noqa: E402
    image_rng,
    parse_level,
    sparsify_levels,
)
from mmseg_reco.engine.command_line import positive_int  # noqa: E402

Masks = dict[str, np.ndarray]


def draws_of(relative: str) -> np.random.Generator:
    """What draws the pixels of a mask, as the converter does for seed 0."""
    return image_rng(0, Path(relative).stem)


def by_dilation(mask: np.ndarray, levels: list[str], relative: str) -> list[np.ndarray]:
    return [sparsify_by_dilation(mask, parse_level(level), draws_of(relative)) for level in levels]


def compare(masks: Masks, levels: list[str], rounds: int) -> tuple[list[float], list[float]]:
    """CPU seconds that a pass over all masks takes with the loop and without, for each round."""
    loop, ours = [], []
    for _ in range(rounds):
        total = np.zeros(2)
        for relative, mask in masks.items():
            start = time.process_time()
            expected = by_dilation(mask, levels, relative)
            middle = time.process_time()
            sparse = sparsify_levels(mask, levels, draws_of(relative))
            total += middle - start, time.process_time() - middle
            if not np.array_equal(sparse, expected):
                raise AssertionError(f'{relative} differs at {levels}')
        loop.append(total[0])
        ours.append(total[1])
    return loop, ours


def plain_convert(relative: str, mask_dir: str, out_dir: Path, levels: list[str]) -> None:
    """What the converter does for one seed, by the loop and with PIL's ordinary PNG."""
    image = Image.open(Path(mask_dir) / relative)
    for level, sparse in zip(levels, by_dilation(np.array(image), levels, relative), strict=True):
        result = Image.fromarray(sparse)
        if image.mode == 'P':
            result.putpalette(image.getpalette())
        target = out_dir / level / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        result.save(target)


def run_all(task: partial, masks: list[str], workers: int) -> float:
    """Seconds for ``task`` on all masks, into a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as out_dir:
        task = partial(task, out_dir=Path(out_dir))
        start = time.perf_counter()
        if workers == 1:
            list(map(task, masks))
        else:
            with Pool(workers) as pool:
                list(pool.imap(task, masks))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('mask_dir', help='folder of index masks')
    parser.add_argument('--levels', nargs='+', default=['p0', 'p1', 'p5', 'p25'])
    parser.add_argument('--workers', nargs='+', type=positive_int, default=[1, 2])
    parser.add_argument('--rounds', type=positive_int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    masks = {relative: np.array(Image.open(Path(args.mask_dir) / relative))
             for relative in find_masks(args.mask_dir, '.png', backend_args=None)}

    print(f'{len(masks)} masks in memory, one process: CPU seconds a pass, median [quartiles]')
    print(f'{"levels":16}{"dilation loop":>26}{"mmseg_reco":>26}{"ratio":>24}')
    for levels in [*([level] for level in args.levels), args.levels]:
        loop, ours = compare(masks, levels, args.rounds)
        ratios = [a / b for a, b in zip(loop, ours, strict=True)]
        print(f'{" ".join(levels):16}{spread(loop, 3):>26}{spread(ours, 3):>26}'
              f'{spread(ratios):>24}')
    reads = 1e-6 * sum(
        mask.size * (np.unique(mask).size + len(args.levels)) for mask in masks.values()
    )
    print(f'least traffic of the last row, a read per class and a write per level: {reads:.0f} MB')

    print('\nfiles to files, one seed: seconds, median [quartiles]')
    ways = {'dilation loop, 1 process': (
        partial(plain_convert, mask_dir=args.mask_dir, levels=args.levels), 1
    )}
    for workers in args.workers:
        task = partial(
            convert, mask_dir=args.mask_dir, levels=args.levels, seeds=[0], ignore_index=255,
            backend_args=None)
        ways[f'converter, {workers} process{"es" * (workers > 1)}'] = task, workers
    seconds = {name: [] for name in ways}
    for _ in bar(range(args.rounds)):
        for name, (task, workers) in ways.items():
            seconds[name].append(run_all(task, list(masks), workers))
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(first, values, strict=True)]
        print(f'{name:28}{spread(values, 3):>26}   {spread(ratios, 2)} times as fast')


if __name__ == '__main__':
    main()
