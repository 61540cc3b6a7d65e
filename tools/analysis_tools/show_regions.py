# Licensed under the Apache License, Version 2.0.
"""Draw the teacher's regions beside the student's regions that RC2L matches them with.

Regions and matching are this project's reconstruction (docs/methods/rc2l.md). Both networks are in
eval mode: what they draw does not depend on the other images of a batch.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from mmseg_reco.engine.command_line import (
    add_cfg_options,
    add_trust_checkpoint,
    positive_int,
    usage_errors,
)
from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader
from mmseg_reco.models import SemiBaseSegmentor
from mmseg_reco.models.regions import pairwise_dice
from mmseg_reco.visualization import batch_to_rgb, draw_matched_regions, save_picture

EXAMPLE = """example:
  python tools/analysis_tools/show_regions.py CONFIG --checkpoint work_dirs/NAME/iter_1000.pth
"""


@torch.no_grad()
def matched_regions(model: SemiBaseSegmentor, batch: dict) -> dict[str, list]:
    """What :func:`draw_matched_regions` draws, of the unlabelled images of a training batch."""
    data = model.data_preprocessor(batch, training=True)
    weak, teacher, strong = model.unlabeled_views(data['inputs'], data['data_samples'])
    student = model.student.forward_dense(strong.images)
    prediction, target = model.match_regions(student, teacher, weak, strong)
    dice = pairwise_dice(prediction.masks, target.masks, target.valid)
    views = batch_to_rgb(model.data_preprocessor.to_rgb(strong.images))
    drawn = dict(images=views, teacher_masks=[], student_masks=[], labels=[], overlap=[])
    for i, exists in enumerate(target.exists):
        match = target.match[i, exists]
        drawn['teacher_masks'].append(target.masks[i, exists].cpu().numpy())
        drawn['student_masks'].append(prediction.masks[i, match].cpu().numpy())
        drawn['labels'].append(target.labels[i, exists].cpu().numpy())
        drawn['overlap'].append(dice[i, exists].gather(1, match[:, None])[:, 0].cpu().numpy())
    return drawn


def collect(model: SemiBaseSegmentor, batches: Iterable[dict], number: int) -> dict[str, list]:
    """:func:`matched_regions` of the first ``number`` images.

    Raises:
        ValueError: If the model compares no regions.
    """
    if not getattr(model, 'region_losses', None):
        raise ValueError(f'{type(model).__name__} has no region loss: there are no regions to draw')
    drawn: dict[str, list] = {}
    for batch in batches:
        for name, values in matched_regions(model, batch).items():
            drawn[name] = (drawn.get(name, []) + values)[:number]
        if len(drawn['images']) == number:
            break
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a model with region losses')
    parser.add_argument('--checkpoint', help='weights; without them the networks are random')
    parser.add_argument('--number', type=positive_int, default=4, help='images to draw')
    parser.add_argument('--out', type=Path,
                        help='picture to write (default: work_dirs/NAME_OF_CONFIG/regions.png)')
    add_cfg_options(parser)
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    with usage_errors(parser):
        cfg = read_config(args.config, args.cfg_options)
        loader = training_loader(cfg)
        model = load_model(cfg, args.checkpoint, args.trust_checkpoint).eval()
        drawn = collect(model, training_batches(cfg, loader), args.number)
        meta = loader.dataset.metainfo
        picture = draw_matched_regions(
            **drawn, class_names=meta['classes'], palette=meta['palette'])
        output = args.out or Path(cfg.work_dir) / 'regions.png'
        save_picture(picture, output)
    print(f'{len(drawn["images"])} images drawn to {output}')


if __name__ == '__main__':
    main()
