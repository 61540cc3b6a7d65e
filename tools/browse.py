# Licensed under the Apache License, Version 2.0.
"""Draw what a model is fed, exactly: images as training loads them, and their labels.

Of a student and its teacher also the pseudo-labels and the strong views that the segmentor makes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from torch import Tensor
from torch.utils.data import DataLoader

from mmseg_reco.engine.command_line import (
    add_cfg_options,
    add_trust_checkpoint,
    positive_int,
    usage_errors,
)
from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader
from mmseg_reco.models import SemiBaseSegmentor
from mmseg_reco.models.preprocess import MultiBranchDataPreprocessor, PseudoBatch
from mmseg_reco.visualization import (
    PANEL_WIDTH,
    PseudoLabels,
    batch_to_rgb,
    draw_panel,
    save_picture,
)

EXAMPLE = """example:
  python tools/browse.py configs/demo/deeplabv3plus_r18-d16_demo-p0_reco-classmix.py --number 4

With the same randomness.seed (0 if the config has none) the images and given labels are those of
the first iterations of tools/train.py, on one process. Without --checkpoint the teacher is random,
so its pseudo-labels, and the classes that ClassMix cuts out by them, mean nothing.
"""
_NARROWEST, _WIDEST = 1.5, 2.4  # of a column


def given_labels(samples: Sequence) -> list[np.ndarray]:
    """The label maps (H, W) of a batch."""
    return [sample.gt_sem_seg.data[0].cpu().numpy() for sample in samples]


def pseudo_labels(model: SemiBaseSegmentor, batch: PseudoBatch) -> list[PseudoLabels]:
    """The pseudo-labels of a batch, one by one."""
    maps = zip(batch.labels.cpu().numpy(), batch.confidence.float().cpu().numpy(), strict=True)
    threshold = model.semi_train_cfg['weak_threshold']
    return [PseudoLabels(labels, sure, threshold) for labels, sure in maps]


@torch.no_grad()
def unlabeled_columns(
    model: SemiBaseSegmentor, inputs: dict[str, Tensor], samples: dict[str, list], teacher: str
) -> dict[str, list]:
    """Titled columns of the unlabelled half of a batch, by the segmentor's own functions."""
    weak, _, strong = model.unlabeled_views(inputs, samples)
    to_rgb = model.data_preprocessor.to_rgb
    columns = {
        'weak view': batch_to_rgb(to_rgb(weak.images)),
        'given labels': given_labels(samples['unsup']),
        f'pseudo-labels of\n{teacher} teacher': pseudo_labels(model, weak),
    }
    mix = 'not mixed' if model.mix is None else type(model.mix).__name__
    number = len(weak.images)
    views = len(strong.images) // number
    for view in range(views):
        which = f' {view + 1}' if views > 1 else ''
        part = strong.map(lambda x, n=view: x[n * number:(n + 1) * number])
        columns |= {
            f'strong view{which}\n({mix})': batch_to_rgb(to_rgb(part.images)),
            f'pseudo-labels of\nstrong view{which}': pseudo_labels(model, part),
            f'confidence{which}\n(black 0, white 1)': list(part.confidence.float().cpu().numpy()),
        }
    return columns


def collect(
    cfg: Config, loader: DataLoader, number: int, checkpoint: str | None, trusted: Sequence[str]
) -> dict[str, dict[str, list]]:
    """Go through training batches until every panel has its number of images.

    Returns:
        dict: Name of the panel to its titled columns; 'file' holds the names of the images.
    """
    model = None
    if issubclass(MODELS.get(cfg.model.type), SemiBaseSegmentor):
        model = load_model(cfg, checkpoint, trusted).train()
        preprocessor = model.data_preprocessor
    elif checkpoint is None:
        preprocessor = MultiBranchDataPreprocessor(cfg.model.data_preprocessor)
    else:
        raise ValueError(f'--checkpoint is for the teacher, and {cfg.model.type} has none.')
    panels: dict[str, dict[str, list]] = {}
    for batch in training_batches(cfg, loader):
        if model is None:
            data = preprocessor.data_preprocessor(batch, True)
            data = {key: dict(sup=value) for key, value in data.items()}
        else:
            data = preprocessor(batch, True)
        for branch, samples in data['data_samples'].items():
            images = data['inputs'][branch]
            if branch == 'sup':
                columns = {'image, as fed': batch_to_rgb(preprocessor.to_rgb(images)),
                           'given labels': given_labels(samples)}
            else:
                teacher = 'the' if checkpoint else 'a random'
                columns = unlabeled_columns(model, data['inputs'], data['data_samples'], teacher)
            columns['file'] = [Path(sample.img_path).name for sample in samples]
            panel = panels.setdefault('labeled' if branch == 'sup' else 'unlabeled', {})
            for title, cells in columns.items():
                panel[title] = (panel.get(title, []) + cells)[:number]
        if all(len(panel['file']) == number for panel in panels.values()):
            return panels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='train config file')
    parser.add_argument('--number', type=positive_int, default=4, help='images in each picture')
    parser.add_argument('--out', type=Path,
                        help='folder to write to (default: work_dirs/NAME_OF_CONFIG/browse)')
    parser.add_argument('--checkpoint', help='weights of the teacher')
    add_cfg_options(parser)
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    try:
        cfg = read_config(args.config, args.cfg_options)
        loader = training_loader(cfg)
        panels = collect(cfg, loader, args.number, args.checkpoint, args.trust_checkpoint)
    except (AssertionError, OSError, ValueError) as error:  # mmseg asserts that a list is there
        parser.error(f'{error}\ntools/check_data.py {args.config} lists what is wrong with data.')
    output = args.out or Path(cfg.work_dir) / 'browse'
    meta, ignore_index = loader.dataset.metainfo, 255
    for name, columns in panels.items():
        files = columns.pop('file')
        if name == 'unlabeled' and all((labels == 255).all() for labels in columns['given labels']):
            del columns['given labels']
        picture = draw_panel(
            columns, meta['classes'], meta['palette'], ignore_index,
            min(_WIDEST, max(_NARROWEST, PANEL_WIDTH / len(columns))), row_labels=files)
        with usage_errors(parser):
            save_picture(picture, output / f'{name}.png')
        print(f'{len(files)} {name} images drawn to {output / name}.png')


if __name__ == '__main__':
    main()
