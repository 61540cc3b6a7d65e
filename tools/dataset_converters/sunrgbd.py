# Licensed under the Apache License, Version 2.0.
"""SUN RGB-D, 37 classes, at 512x384, the size of ReCo's experiments.

Masks are numbered through: 1-5050 are the test images, 5051-10335 the training images, whose own
files count from 1 again. Here an image takes the number of its mask. Labels stay as they are: 0 is
void, the classes count from 1 (``SUNRGBDDataset`` has ``reduce_zero_label``).
"""

import argparse
from functools import partial
from pathlib import Path

from converter_utils import (
    found_files,
    make_parser,
    process,
    read_image,
    read_mask,
    run,
    save_image,
    save_names,
)
from PIL import Image

from mmseg_reco.datasets import SUNRGBDDataset
from mmseg_reco.datasets.files import join
from mmseg_reco.datasets.splits import read_names

WIDTH, HEIGHT = 512, 384
NUM_CLASSES = len(SUNRGBDDataset.METAINFO['classes'])
NUM_TEST = 5050


def parse_args() -> argparse.Namespace:
    parser = make_parser('Make SUN RGB-D at 512x384.', 'sunrgbd.py sun --out data/sunrgbd')
    parser.add_argument(
        'root',
        help='folder that holds SUNRGBD-train_images/, SUNRGBD-test_images/ and '
        'sunrgbd_train_test_labels/, as unpacked',
    )
    parser.add_argument('--out', type=Path, default=Path('data/sunrgbd'))
    parser.add_argument(
        '--test-index',
        help='text file with the numbers of the test images to keep for testing; the other test '
        "images join the training images, as in ReCo's experiments (default: the official split)",
    )
    return parser.parse_args()


def numbered_images(folder: str, backend_args: dict | None) -> dict[int, str]:
    """Images of a folder by the number in their name (``img-000123.jpg``)."""
    images = {int(Path(name).stem.rpartition('-')[2]): join(folder, name)
              for name in found_files(folder, '.jpg', backend_args=backend_args) if '-' in name}
    if not images:
        raise FileNotFoundError(f'{folder} holds no img-<number>.jpg.')
    return images


def convert(
    task: tuple[int, str, str], label_dir: str, out: Path, backend_args: dict | None
) -> None:
    """Resize one image (bilinear) and its mask (nearest)."""
    number, image_path, part = task
    name = f'img-{number:06d}'
    image_target = out / 'images' / part / f'{name}.jpg'
    label_target = out / 'labels' / part / f'{name}.png'
    if image_target.exists() and label_target.exists():
        return
    image = read_image(image_path, backend_args).convert('RGB')
    mask_path = join(label_dir, f'{name}.png')
    mask = read_mask(mask_path, backend_args)
    if image.size != mask.size:
        raise ValueError(
            f'{image_path} is {image.size[0]}x{image.size[1]} but its mask {mask_path} is '
            f'{mask.size[0]}x{mask.size[1]}: the files are not as unpacked.'
        )
    largest = mask.getextrema()[1]
    if largest > NUM_CLASSES:
        raise ValueError(f'{mask_path} holds label {largest}, but there are {NUM_CLASSES} classes.')
    save_image(mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST), label_target)
    image = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    save_image(image, image_target, quality=95)


def main() -> None:
    args = parse_args()
    train = numbered_images(join(args.root, 'SUNRGBD-train_images'), args.backend_args)
    test = numbered_images(join(args.root, 'SUNRGBD-test_images'), args.backend_args)
    kept = ({int(number) for number in read_names(args.test_index, args.backend_args)}
            if args.test_index else set(test))
    if unknown := sorted(kept - set(test)):
        raise ValueError(f'{args.test_index} lists {unknown[0]}, which is no test image.')
    parts = {
        'train': {number: path for number, path in test.items() if number not in kept}
        | {NUM_TEST + number: path for number, path in train.items()},
        'test': {number: test[number] for number in kept},
    }
    label_dir = join(args.root, 'sunrgbd_train_test_labels')
    labels = set(found_files(label_dir, '.png', backend_args=args.backend_args))
    # all at once and first: in archives that were renamed already, some numbers do have a mask
    for number in sorted({**parts['train'], **parts['test']}):
        mask = f'img-{number:06d}.png'
        if mask not in labels:
            raise FileNotFoundError(
                f'The mask {join(label_dir, mask)} is missing: {args.root} must hold the three '
                'archives as unpacked, with no file renamed.'
            )
    for part, images in parts.items():
        tasks = [(number, images[number], part) for number in sorted(images)]
        one = partial(convert, label_dir=label_dir, out=args.out, backend_args=args.backend_args)
        process(one, tasks, args.workers)
        save_names([f'img-{number:06d}' for number in sorted(images)], args.out / f'{part}.txt')
        print(f'\n{len(tasks)} {part} images: {args.out}')


if __name__ == '__main__':
    run(main)
