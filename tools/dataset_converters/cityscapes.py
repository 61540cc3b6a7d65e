# Licensed under the Apache License, Version 2.0.
"""Cityscapes at 512x1024, the size of ReCo's experiments, with training labels.

Needs no cityscapesscripts: the labelIds images of gtFine_trainvaltest.zip are mapped by table.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from converter_utils import (
    found_files,
    index_png,
    make_parser,
    process,
    read_image,
    read_mask,
    run,
    save_image,
    save_names,
)
from PIL import Image

from mmseg_reco.datasets.files import join

WIDTH, HEIGHT = 1024, 512
IMAGE_SUFFIX = '_leftImg8bit.png'
# label ids of the 19 evaluated classes, in the order of their training labels
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_LABEL = np.full(256, 255, np.uint8)
TRAIN_LABEL[list(EVALUATED)] = range(len(EVALUATED))


def parse_args() -> argparse.Namespace:
    parser = make_parser('Make Cityscapes at 512x1024.',
                         'cityscapes.py cityscapes --out data/cityscapes_512x1024 --workers 4')
    parser.add_argument('root', help='folder that holds leftImg8bit/ and gtFine/')
    parser.add_argument('--out', type=Path, default=Path('data/cityscapes_512x1024'))
    return parser.parse_args()


def convert(
    relative: str, root: str, part: str, out: Path, backend_args: dict | None
) -> str:
    """Resize one image (bilinear) and its mask (nearest); returns the image's name."""
    city, name = relative.removesuffix(IMAGE_SUFFIX).split('/')
    image_target = out / 'images' / part / f'{name}.png'
    if not image_target.exists():
        path = join(root, 'leftImg8bit', part, relative)
        image = read_image(path, backend_args).convert('RGB')
        save_image(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), image_target)
    label_target = out / 'labels' / part / f'{name}.png'
    if not label_target.exists():
        mask = read_mask(
            join(root, 'gtFine', part, city, f'{name}_gtFine_labelIds.png'), backend_args)
        label_ids = np.array(mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
        save_image(index_png(TRAIN_LABEL[label_ids]), label_target)
    return name


def main() -> None:
    args = parse_args()
    for part in ('train', 'val'):
        folder = join(args.root, 'leftImg8bit', part)
        found = found_files(folder, IMAGE_SUFFIX, True, args.backend_args)
        images = [path for path in found if path.count('/') == 1]
        if not images:
            raise FileNotFoundError(
                f'{folder} holds no <city>/*_leftImg8bit.png: unpack '
                'leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into one folder.'
            )
        one = partial(
            convert, root=args.root, part=part, out=args.out, backend_args=args.backend_args)
        names = process(one, images, args.workers)
        save_names(names, args.out / f'{part}.txt')
        print(f'\n{len(names)} {part} images: {args.out}')


if __name__ == '__main__':
    run(main)
