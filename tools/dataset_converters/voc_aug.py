# Licensed under the Apache License, Version 2.0.
"""PASCAL VOC 2012 with SBD's extra annotations: the 10,582 training masks used by the field.

mmseg's own converter leaves VOC's and SBD's masks in two folders and its list in no particular
order. Here all masks are in one folder and the list is sorted, which the labelled splits need.
Images annotated in both keep VOC's mask.
"""

import argparse
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from converter_utils import (
    copy_file,
    index_png,
    listed_names,
    make_parser,
    process,
    read_mask,
    run,
    save_image,
    save_names,
)
from scipy.io import loadmat

from mmseg_reco.datasets.files import is_local, join, read


def parse_args() -> argparse.Namespace:
    parser = make_parser('Join the masks of PASCAL VOC 2012 and SBD.',
                         'voc_aug.py data/VOCdevkit/VOC2012 benchmark_RELEASE/dataset')
    parser.add_argument('voc_dir', help='.../VOCdevkit/VOC2012')
    parser.add_argument('sbd_dir', help='.../benchmark_RELEASE/dataset')
    parser.add_argument('--out', type=Path, help='default: VOC_DIR')
    return parser.parse_args()


def convert(source: str, out_dir: Path, palette: list[int], backend_args: dict | None) -> None:
    """Copy one of VOC's masks or turn one of SBD's into a PNG.

    Raises:
        FileNotFoundError: If the mask is missing.
        ValueError: If it is not one of SBD's.
    """
    target = out_dir / f'{PurePosixPath(source).stem}.png'
    if target.exists():
        return
    try:
        if source.endswith('.png'):
            copy_file(source, target, backend_args)
            return
        data = read(source, backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'The mask {source} is missing.') from error
    try:
        labels = loadmat(BytesIO(data), simplify_cells=True)['GTcls']['Segmentation']
    except Exception as error:  # whichever: what is wrong with it decides
        raise ValueError(f"{source} cannot be read as a mask of SBD ({error}): unpack or fetch "
                         "SBD's archive anew.") from error
    save_image(index_png(labels.astype(np.uint8), palette), target)


def main() -> None:
    args = parse_args()
    storage = args.backend_args
    if args.out is None and not is_local(args.voc_dir, storage):
        raise ValueError(f'{args.voc_dir} is not on disk: say with --out where to write.')
    lists = 'ImageSets/Segmentation'
    voc = {part: listed_names(join(args.voc_dir, lists, f'{part}.txt'), storage)
           for part in ('train', 'val')}
    sbd = [name for part in ('train', 'val')
           for name in listed_names(join(args.sbd_dir, f'{part}.txt'), storage)]
    train_aug = sorted({*voc['train'], *sbd} - {*voc['val']})

    from_voc = {*voc['train'], *voc['val']}
    sources = [
        join(args.voc_dir, 'SegmentationClass', f'{name}.png')
        if name in from_voc
        else join(args.sbd_dir, 'cls', f'{name}.mat')
        for name in train_aug + voc['val']
    ]
    first = join(args.voc_dir, 'SegmentationClass', f'{voc["train"][0]}.png')
    palette = read_mask(first, storage).getpalette()
    out = args.out or Path(args.voc_dir)
    out_dir = out / 'SegmentationClassAug'
    one = partial(convert, out_dir=out_dir, palette=palette, backend_args=storage)
    process(one, sources, args.workers)
    save_names(train_aug, out / lists / 'train_aug.txt')
    save_names(voc['val'], out / lists / 'val.txt')
    print(f'\n{len(train_aug)} training and {len(voc["val"])} validation masks: {out_dir}')


if __name__ == '__main__':
    run(main)
