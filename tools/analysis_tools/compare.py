# Licensed under the Apache License, Version 2.0.
"""Compare two trained models on the validation images: where they differ, and IoU of each class.

Draws the images whose mIoU differs most, whichever model is ahead, and some random ones.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.utils import ProgressBar
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS
from prettytable import PrettyTable
from torch.utils.data import Dataset

from mmseg_reco.engine.command_line import (
    add_cfg_options,
    add_trust_checkpoint,
    natural,
    usage_errors,
)
from mmseg_reco.engine.offline import load_model, read_config
from mmseg_reco.visualization import (
    PANEL_WIDTH,
    bgr_to_rgb,
    color_labels,
    draw_panel,
    save_picture,
)

EXAMPLE = """example:
  python tools/analysis_tools/compare.py work_dirs/classmix/iter_1500.pth \\
      work_dirs/reco/iter_1500.pth --names ClassMix "ClassMix + ReCo"

A model with a teacher and a student is compared by the one that its config predicts with. The mIoU
of one image is the mean over the classes that its ground truth has.
"""
# Only A is right, only B, both, neither: told apart by any colour vision.
_ONLY_A, _ONLY_B, _BOTH, _NEITHER = (230, 159, 0), (0, 90, 181), (238, 238, 238), (110, 110, 110)


def config_beside(checkpoint: str) -> str:
    """The config that mmengine wrote into the folder of a checkpoint.

    Raises:
        FileNotFoundError: There is none, or more than one.
    """
    found = sorted(Path(checkpoint).parent.glob('*.py'))
    if len(found) != 1:
        raise FileNotFoundError(
            f'{len(found)} configs lie beside {checkpoint}: name one for each checkpoint with '
            '--configs.')
    return str(found[0])


class Side:
    """One of the two models, with its own view of the validation data."""

    def __init__(self, cfg: Config, checkpoint: str, trusted: Sequence[str]) -> None:
        self.model: nn.Module = load_model(cfg, checkpoint, trusted).eval()
        self.data: Dataset = DATASETS.build(cfg.val_dataloader.dataset)

    @torch.no_grad()
    def predict(self, index: int) -> tuple[dict, np.ndarray]:
        """A sample as the dataset gives it, and the labels (H, W) predicted for it."""
        sample = self.data[index]
        result = self.model.test_step(pseudo_collate([sample]))[0]
        return sample, result.pred_sem_seg.data[0].cpu().numpy()


def truth_of(sample: dict, prediction: np.ndarray) -> np.ndarray:
    """Ground truth (H, W) of a sample.

    Raises:
        ValueError: There is none, or it is not of the size of the prediction.
    """
    path = sample['data_samples'].img_path
    if 'gt_sem_seg' not in sample['data_samples']:
        raise ValueError(f'{path} comes without ground truth: the pipeline of val_dataloader needs '
                         "dict(type='LoadAnnotations').")
    truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
    if truth.shape != prediction.shape:
        raise ValueError(f'{path}: the ground truth is {truth.shape}, the prediction '
                         f'{prediction.shape}; load annotations after Resize, as mmseg does.')
    return truth


def areas(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of each class (4, C): in both, in either, predicted, true."""
    return torch.stack(IoUMetric.intersect_and_union(
        torch.from_numpy(prediction), torch.from_numpy(truth), num_classes, 255)).numpy()


def iou(area: np.ndarray) -> np.ndarray:
    """IoU in percent (..., C) of areas (..., 4, C); NaN for a class that occurs nowhere."""
    with np.errstate(invalid='ignore'):
        return 100 * area[..., 0, :] / area[..., 1, :]


def image_miou(area: np.ndarray) -> np.ndarray:
    """Mean IoU in percent (n,) of images with areas (n, 4, C), over the classes they have."""
    return np.nanmean(np.where(area[:, 3] > 0, iou(area), np.nan), 1)


def choose(difference: np.ndarray, most: int, random: int, seed: int) -> list[int]:
    """Images that differ most, by falling difference, then random ones of the others."""
    order = np.argsort(-np.abs(np.nan_to_num(difference)), kind='stable')
    rest = order[most:]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:random]
    return [*order[:most].tolist(), *sorted(rest[drawn].tolist())]


def difference_map(first: np.ndarray, second: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) that shows where exactly one of two predictions is right."""
    right = 2 * (first == truth) + (second == truth)
    return color_labels(np.where(truth == 255, 255, right), [_NEITHER, _ONLY_B, _ONLY_A, _BOTH])


def table_of(classes: Sequence[str], names: Sequence[str], scores: np.ndarray) -> PrettyTable:
    """IoU of every class, and their mean, of both models; scores (2, C)."""
    table = PrettyTable(['IoU (%)', *names, 'difference'], align='r')
    table.align['IoU (%)'] = 'l'
    for name, (a, b) in [*zip(classes, scores.T, strict=True), ('mean', np.nanmean(scores, 1))]:
        table.add_row([name, f'{a:.2f}', f'{b:.2f}', f'{b - a:+.2f}'], divider=name == classes[-1])
    return table


def measure(sides: Sequence[Side], num_classes: int) -> np.ndarray:
    """Areas (2, n, 4, C) of both models on every validation image."""
    result = []
    bar = ProgressBar(len(sides[0].data), file=sys.stderr)
    for index in range(len(sides[0].data)):
        (sample, first), (other, second) = (side.predict(index) for side in sides)
        if sample['data_samples'].img_path != other['data_samples'].img_path:
            raise ValueError('The two configs validate on different images: '
                             f'{sample["data_samples"].img_path} against '
                             f'{other["data_samples"].img_path}.')
        truth = truth_of(sample, first)
        result.append([areas(first, truth, num_classes), areas(second, truth, num_classes)])
        bar.update()
    print(file=sys.stderr)
    return np.array(result).swapaxes(0, 1)


def draw(sides: Sequence[Side], names: Sequence[str], chosen: Sequence[int], most: int,
         scores: np.ndarray) -> np.ndarray:
    """The picture, of the chosen images with their mIoU (2, n)."""
    meta = sides[0].data.metainfo
    columns: dict[str, list] = {
        title: [] for title in ('image', 'ground truth', *names, 'difference')}
    labels = []
    for row, index in enumerate(chosen):
        (sample, first), (_, second) = (side.predict(index) for side in sides)
        truth = truth_of(sample, first)
        cells = (bgr_to_rgb(sample['inputs']), truth, first, second,
                 difference_map(first, second, truth))
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
        a, b = scores[:, index]
        ahead = names[int(b > a)] if a != b else 'neither'
        kind = 'differs most' if row < most else 'random'
        labels.append(f'{kind}: {Path(sample["data_samples"].img_path).name}   mIoU '
                      f'{names[0]} {a:.1f}, {names[1]} {b:.1f}   ({abs(b - a):.1f} for {ahead})')
    notes = {f'only {names[0]} is right': _ONLY_A, f'only {names[1]} is right': _ONLY_B,
             'both': _BOTH, 'neither': _NEITHER}
    return draw_panel(columns, meta['classes'], meta['palette'], 255, PANEL_WIDTH / len(columns),
                      labels, notes)


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs=2, metavar='CHECKPOINT')
    parser.add_argument('--configs', nargs='+', metavar='CONFIG', default=(),
                        help='config of both, or of each, in order (default: the one that training '
                        'left beside the checkpoint)')
    parser.add_argument('--names', nargs=2, metavar='NAME',
                        help='titles (default: the folders, or files, of the checkpoints)')
    parser.add_argument('--most', type=natural, default=4, help='images that differ most')
    parser.add_argument('--random', type=natural, default=2, help='random images besides')
    parser.add_argument('--seed', type=int, default=0, help='of the random images')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/compare'),
                        help='folder to write to')
    add_cfg_options(parser)
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    if len(args.configs) > 2:
        parser.error('--configs takes one config or two')
    if args.names is None:
        paths = [Path(checkpoint).absolute() for checkpoint in args.checkpoints]
        folders = [path.parent.name for path in paths]
        args.names = folders if len(set(folders)) == 2 else [path.stem for path in paths]
    if args.names[0] == args.names[1]:
        parser.error(f'both models are called {args.names[0]}: name them with --names')
    return parser, args


def main() -> None:
    parser, args = parse_args()
    with usage_errors(parser):
        configs = list(args.configs) or [config_beside(path) for path in args.checkpoints]
        sides = [
            Side(read_config(config, args.cfg_options), checkpoint, args.trust_checkpoint)
            for config, checkpoint in zip((configs * 2)[-2:], args.checkpoints, strict=True)
        ]
        classes = sides[0].data.metainfo['classes']
        if classes != sides[1].data.metainfo['classes'] or len({len(s.data) for s in sides}) != 1:
            raise ValueError('The two configs validate on different classes or images.')
        area = measure(sides, len(classes))
        per_image = np.stack([image_miou(part) for part in area])
        chosen = choose(per_image[1] - per_image[0], args.most, args.random, args.seed)
        picture = draw(sides, args.names, chosen, args.most, per_image)
    table = table_of(classes, args.names, iou(area.sum(1)))
    print(table)
    with usage_errors(parser):
        save_picture(picture, args.out / 'comparison.png')
        (args.out / 'comparison.txt').write_text(f'{table}\n')
    ahead = np.sign(np.nan_to_num(per_image[1] - per_image[0]))
    print(f'Of {area.shape[1]} images {args.names[0]} is ahead in {(ahead < 0).sum()}, '
          f'{args.names[1]} in {(ahead > 0).sum()}.')
    print(f'Written: {args.out / "comparison.png"}, {args.out / "comparison.txt"}')


if __name__ == '__main__':
    main()
