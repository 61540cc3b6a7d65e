# Licensed under the Apache License, Version 2.0.
"""PASCAL VOC 2012 with SBD's extra annotations: the 10,582 training masks used by the field.

mmseg's own converter leaves VOC's and SBD's masks in two folders and its list in no particular
order. Here all masks are in one folder and the list is sorted, which the labelled splits need.
Images annotated in both keep VOC's mask.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from converter_utils import (
    copy_file,
    index_png,
    listed_names,
    process,
    read_mask,
    run,
    save_image,
    save_names,
)
from scipy.io import loadmat


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Join the masks of PASCAL VOC 2012 and SBD.')
    parser.add_argument('voc_dir', type=Path, help='.../VOCdevkit/VOC2012')
    parser.add_argument('sbd_dir', type=Path, help='.../benchmark_RELEASE/dataset')
    parser.add_argument('--out', type=Path, help='default: VOC_DIR')
    parser.add_argument('--workers', type=int, default=1, help='processes (default: 1)')
    return parser.parse_args()


def convert(source: Path, out_dir: Path, palette: list[int]) -> None:
    """Copy one of VOC's masks or turn one of SBD's into a PNG."""
    target = out_dir / f'{source.stem}.png'
    if target.exists():
        return
    if not source.is_file():
        raise FileNotFoundError(f'The mask {source} is missing.')
    if source.suffix == '.png':
        copy_file(source, target)
    else:
        labels = loadmat(source, simplify_cells=True)['GTcls']['Segmentation']
        save_image(index_png(labels.astype(np.uint8), palette), target)


def main() -> None:
    args = parse_args()
    lists = Path('ImageSets', 'Segmentation')
    voc = {part: listed_names(args.voc_dir / lists / f'{part}.txt') for part in ('train', 'val')}
    sbd = listed_names(args.sbd_dir / 'train.txt') + listed_names(args.sbd_dir / 'val.txt')
    train_aug = sorted({*voc['train'], *sbd} - {*voc['val']})

    from_voc = {*voc['train'], *voc['val']}
    sources = [
        args.voc_dir / 'SegmentationClass' / f'{name}.png'
        if name in from_voc
        else args.sbd_dir / 'cls' / f'{name}.mat'
        for name in train_aug + voc['val']
    ]
    palette = read_mask(args.voc_dir / 'SegmentationClass' / f'{voc["train"][0]}.png').getpalette()
    out = args.out or args.voc_dir
    out_dir = out / 'SegmentationClassAug'
    process(partial(convert, out_dir=out_dir, palette=palette), sources, args.workers)
    save_names(train_aug, out / lists / 'train_aug.txt')
    save_names(voc['val'], out / lists / 'val.txt')
    print(f'\n{len(train_aug)} training and {len(voc["val"])} validation masks: {out_dir}')


if __name__ == '__main__':
    run(main)
