# Licensed under the Apache License, Version 2.0.
"""CamVid, 11 classes, from the layout of the SegNet tutorial: checked, with lists of bare names.

Images (PNG or JPEG) and masks (0-10, 11 = void) are copied as they are. The lists may hold bare
names or pairs of paths.
"""

import argparse
from functools import partial
from pathlib import Path

from converter_utils import copy_file, listed_names, process, read_mask, run, save_names
from PIL import Image

VOID = 11


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check CamVid and write lists of bare names.')
    parser.add_argument('root', type=Path, help='folder that holds train/, trainannot/, train.txt')
    parser.add_argument('--out', type=Path, default=Path('data/camvid'), help='another folder')
    parser.add_argument('--workers', type=int, default=1, help='processes (default: 1)')
    return parser.parse_args()


def convert(name: str, root: Path, part: str, out: Path) -> None:
    """Check and copy one image and its mask."""
    mask_path = root / f'{part}annot' / f'{name}.png'
    mask_target = out / f'{part}annot' / mask_path.name
    candidates = [root / part / f'{name}{suffix}' for suffix in ('.png', '.jpg')]
    image_path = next((path for path in candidates if path.is_file()), None)
    if image_path is None:
        raise FileNotFoundError(f'The image {candidates[0]} (or .jpg) is missing.')
    image_target = out / part / image_path.name
    if image_target.exists() and mask_target.exists():
        return
    mask = read_mask(mask_path)
    size = Image.open(image_path).size
    if size != mask.size:
        raise ValueError(
            f'{image_path} is {size[0]}x{size[1]} but its mask {mask_path} is '
            f'{mask.size[0]}x{mask.size[1]}.'
        )
    largest = mask.getextrema()[1]
    if largest > VOID:
        raise ValueError(f'{mask_path} holds label {largest}, but CamVid has 0-10 and 11 for void.')
    copy_file(image_path, image_target)
    copy_file(mask_path, mask_target)


def main() -> None:
    args = parse_args()
    if args.out.resolve() == args.root.resolve():
        raise ValueError(f'--out must be another folder than {args.root}.')
    parts = [part for part in ('train', 'val', 'test') if (args.root / f'{part}.txt').is_file()]
    if 'train' not in parts:
        raise FileNotFoundError(f'{args.root / "train.txt"} is missing.')
    for part in parts:
        names = listed_names(args.root / f'{part}.txt')
        one = partial(convert, root=args.root, part=part, out=args.out)
        process(one, names, args.workers)
        save_names(names, args.out / f'{part}.txt')
        print(f'\n{len(names)} {part} images: {args.out}')


if __name__ == '__main__':
    run(main)
