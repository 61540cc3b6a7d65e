# Licensed under the Apache License, Version 2.0.
"""Draw the teacher's regions beside the student's regions that RC2L matches them with.

Example: python tools/analysis_tools/show_regions.py CONFIG work_dirs/NAME/iter_1000.pth --out r.png
"""

import argparse
from pathlib import Path

import torch
from mmengine.runner import Runner, set_random_seed

from mmseg_reco.engine.checkpoint import safe_checkpoint_loading
from mmseg_reco.engine.launch import (
    add_common_arguments,
    build_runner,
    finish,
    load_config,
    parse_args,
)
from mmseg_reco.models import SemiBaseSegmentor
from mmseg_reco.models.regions import pairwise_dice
from mmseg_reco.visualization import draw_matched_regions, save_picture


@torch.no_grad()
def matched_regions(model: SemiBaseSegmentor, batch: dict) -> dict[str, list]:
    """What :func:`draw_matched_regions` draws, of the unlabelled images of a training batch."""
    data = model.data_preprocessor(batch, training=True)
    weak, teacher = model.pseudo_label(data['inputs']['unsup'], data['data_samples']['unsup'])
    strong = model.strong_view(weak)
    student = model.student.forward_dense(strong.images)
    prediction, target = model.match_regions(student, teacher, weak, strong)
    dice = pairwise_dice(prediction.masks, target.masks, target.valid)
    views = (model.data_preprocessor.to_rgb(strong.images) * 255).byte().permute(0, 2, 3, 1)
    drawn = dict(images=list(views.cpu().numpy()), teacher_masks=[], student_masks=[], labels=[],
                 overlap=[])
    for i, exists in enumerate(target.exists):
        match = target.match[i, exists]
        drawn['teacher_masks'].append(target.masks[i, exists].cpu().numpy())
        drawn['student_masks'].append(prediction.masks[i, match].cpu().numpy())
        drawn['labels'].append(target.labels[i, exists].cpu().numpy())
        drawn['overlap'].append(dice[i, exists].gather(1, match[:, None])[:, 0].cpu().numpy())
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a model with region losses')
    parser.add_argument('checkpoint', help='checkpoint file of it')
    parser.add_argument('--out', default='regions.png', help='picture to write')
    parser.add_argument('--num', type=int, default=4, help='images to draw')
    parser.add_argument('--seed', type=int, default=0, help='which images and which mixes')
    add_common_arguments(parser)
    args = parse_args(parser)
    if not Path(args.checkpoint).is_file():
        parser.error(f'no such checkpoint: {args.checkpoint}')

    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    with safe_checkpoint_loading(args.trust_checkpoint):
        runner = build_runner(cfg)
        runner.load_or_resume()
    model = runner.model
    if not getattr(model, 'region_losses', None):
        parser.error(f'{args.config} has no region loss: there are no regions to draw')
    set_random_seed(args.seed)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=args.seed)
    model.eval()
    drawn = {}
    for batch in loader:
        for name, values in matched_regions(model, batch).items():
            drawn.setdefault(name, []).extend(values)
        if len(drawn['images']) >= args.num:
            break
    meta = loader.dataset.metainfo
    picture = draw_matched_regions(
        **{name: values[:args.num] for name, values in drawn.items()},
        class_names=meta['classes'], palette=meta['palette'])
    try:
        save_picture(picture, args.out)
    except OSError as error:
        parser.error(str(error))
    print(f'{min(len(drawn["images"]), args.num)} images drawn to {args.out}')
    finish()


if __name__ == '__main__':
    main()
