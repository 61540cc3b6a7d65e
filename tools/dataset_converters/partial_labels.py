# Licensed under the Apache License, Version 2.0.
"""Write partial labels (Case II of ReCo) for a folder of masks.

The result of an image depends on the level, the seed and the stem of its file only, so it is the
same on every machine and with any number of workers, and the same as the transform
``SparsifyLabels`` makes on the fly. A run that was interrupted goes on where it stopped.
"""

import argparse
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from converter_utils import (
    found_files,
    index_png,
    make_parser,
    process,
    read_mask,
    run,
    save_image,
)

from mmseg_reco.datasets.files import is_local, join
from mmseg_reco.datasets.partial_labels import image_rng, parse_level, sparsify_levels


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        'Write partial labels for a folder of masks.',
        'partial_labels.py data/masks data/masks_partial --levels p0 p5 --seeds 0')
    parser.add_argument('mask_dir', help='folder of index masks, searched in depth')
    parser.add_argument('out_dir', type=Path, help='masks go to OUT_DIR/<level>_<seed>/')
    parser.add_argument(
        '--levels',
        nargs='+',
        default=['p0', 'p1', 'p5', 'p25'],
        help='p<percent of the pixels of a class>; p0 is one pixel (default: p0 p1 p5 p25)',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--ignore-index', type=int, default=255, help='void (default: 255)')
    parser.add_argument('--suffix', default='.png', help='how mask files end (default: .png)')
    return parser.parse_args()


def find_masks(mask_dir: str, suffix: str, backend_args: dict | None) -> list[str]:
    """Paths of all masks, relative to ``mask_dir``, sorted."""
    if is_local(mask_dir, backend_args) and not Path(mask_dir).is_dir():
        raise FileNotFoundError(f'{mask_dir} is not a folder.')
    masks = found_files(mask_dir, suffix, True, backend_args)
    if not masks:
        raise FileNotFoundError(f"{mask_dir} holds no file that ends in '{suffix}'.")
    return masks


def convert(
    relative: str,
    mask_dir: str,
    out_dir: Path,
    levels: list[str],
    seeds: list[int],
    ignore_index: int,
    backend_args: dict | None,
) -> int:
    """Write all partial masks of one image that are not there yet; returns how many."""
    targets = {
        (seed, level): (out_dir / f'{level}_{seed}' / relative).with_suffix('.png')
        for seed in seeds
        for level in levels
    }
    missing = {key: target for key, target in targets.items() if not target.exists()}
    if not missing:
        return 0
    mask = read_mask(join(mask_dir, relative), backend_args)
    labels, palette = np.array(mask), mask.getpalette()
    for seed in seeds:
        wanted = [level for level in levels if (seed, level) in missing]
        rng = image_rng(seed, Path(relative).stem)
        masks = sparsify_levels(labels, wanted, rng, ignore_index)
        for level, sparse in zip(wanted, masks, strict=True):
            # run lengths compress what is mostly void as well as zlib's search, in half the time
            save_image(
                index_png(sparse, palette), missing[seed, level], compress_type=zlib.Z_RLE
            )
    return len(missing)


def main() -> None:
    args = parse_args()
    for level in args.levels:
        parse_level(level)
    masks = find_masks(args.mask_dir, args.suffix, args.backend_args)
    if args.out_dir.resolve().is_relative_to(Path(args.mask_dir).resolve()):
        raise ValueError(
            f'OUT_DIR {args.out_dir} lies inside MASK_DIR {args.mask_dir}: choose another folder, '
            'complete and partial masks must not mix.'
        )
    written = process(
        partial(
            convert,
            mask_dir=args.mask_dir,
            out_dir=args.out_dir,
            levels=args.levels,
            seeds=args.seeds,
            ignore_index=args.ignore_index,
            backend_args=args.backend_args,
        ),
        masks,
        args.workers,
    )
    total = len(masks) * len(args.levels) * len(args.seeds)
    print(f'\n{sum(written)} masks written, {total - sum(written)} were there: {args.out_dir}')


if __name__ == '__main__':
    run(main)
