# Licensed under the Apache License, Version 2.0.
"""Choose the labelled images of a training list (Case I of ReCo).

Writes OUT/<number>/<seed>/labeled.txt and unlabeled.txt, one name a line.
"""

import argparse
from functools import partial
from pathlib import Path

from converter_utils import class_set, listed_names, make_parser, process, run, save_names
from mmseg.registry import DATASETS

from mmseg_reco.datasets.files import is_local, join
from mmseg_reco.datasets.splits import select_by_class, select_labeled, select_random


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        'Choose the labelled images of a training list.',
        'make_splits.py data/masks --list data/train.txt --num-labeled 20 50 --out data/splits')
    parser.add_argument('mask_dir', help='folder of the index masks of the list')
    parser.add_argument(
        '--list',
        required=True,
        help='text file: one name per line, or "path/to/image path/to/mask" pairs as in CamVid',
    )
    parser.add_argument('--num-labeled', nargs='+', type=int, required=True)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--out', type=Path, required=True, help='folder of the splits')
    parser.add_argument(
        '--strategy',
        choices=['class-balanced', 'per-class', 'random'],
        default='class-balanced',
        help='class-balanced (default): every image shows one of the least labelled classes, the '
        "paper's rule on VOC and Cityscapes; per-class: its rule on SUN RGB-D; random",
    )
    parser.add_argument(
        '--min-classes',
        type=int,
        default=1,
        help='class-balanced only: least number of classes of a labelled image; the paper: 3 on '
        'VOC, 12 on Cityscapes (default: 1)',
    )
    parser.add_argument(
        '--dataset', help='registered dataset class, such as PascalVOCDataset: errors show its '
        'class names, and labels beyond them are refused'
    )
    parser.add_argument('--ignore-index', type=int, default=255, help='void (default: 255)')
    parser.add_argument(
        '--reduce-zero-label', action='store_true', help='label 0 is void, classes count from 1'
    )
    parser.add_argument('--suffix', default='.png', help='mask file = name + suffix')
    return parser.parse_args()


def names_of_classes(dataset: str | None) -> tuple[str, ...] | None:
    """Class names of a registered dataset class."""
    if dataset is None:
        return None
    dataset_class = DATASETS.get(dataset)
    if dataset_class is None:
        raise ValueError(f"'{dataset}' is not a registered dataset class.")
    return dataset_class.METAINFO['classes']


def main() -> None:
    args = parse_args()
    names = listed_names(args.list, args.backend_args)
    masks = [join(args.mask_dir, f'{name}{args.suffix}') for name in names]
    # elsewhere they are missed when they are read
    missing = [mask for mask in masks if is_local(mask, args.backend_args)
               and not Path(mask).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of the {len(masks)} masks of {args.list} are missing, the first is '
            f'{missing[0]}. Check MASK_DIR and --suffix.'
        )
    if args.strategy == 'random':
        select = partial(select_random, names)
    else:
        read = partial(
            class_set, ignore_index=args.ignore_index, reduce_zero_label=args.reduce_zero_label,
            backend_args=args.backend_args
        )
        class_sets = dict(zip(names, process(read, masks, args.workers), strict=True))
        print()
        classes = names_of_classes(args.dataset)
        for mask, present in zip(masks, class_sets.values(), strict=True):
            if classes and max(present, default=0) >= len(classes):
                raise ValueError(
                    f'{mask} shows class {max(present)}, but the {len(classes)} of {args.dataset} '
                    'count from 0: give the label of void with --ignore-index, or '
                    '--reduce-zero-label if it is 0.')
        if args.strategy == 'per-class':
            select = partial(select_by_class, names, class_sets)
        else:
            select = partial(
                select_labeled,
                names,
                class_sets,
                min_classes=args.min_classes,
                class_names=classes,
            )
    for num_labeled in args.num_labeled:
        for seed in args.seeds:
            labeled = select(num_labeled=num_labeled, seed=seed)
            chosen = set(labeled)
            folder = args.out / str(num_labeled) / str(seed)
            save_names(labeled, folder / 'labeled.txt')
            save_names([name for name in names if name not in chosen], folder / 'unlabeled.txt')
            print(f'{folder}: {len(labeled)} labeled, {len(names) - len(labeled)} unlabeled')


if __name__ == '__main__':
    run(main)
