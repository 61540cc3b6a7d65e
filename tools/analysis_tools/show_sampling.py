# Licensed under the Apache License, Version 2.0.
"""Draw which pixels ReCo takes as queries and as negative keys in a training step.

The step is that of training, and so are the samplers; nothing is learned in it.
"""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from prettytable import PrettyTable
from torch import Tensor

from mmseg_reco.engine.command_line import (
    add_cfg_options,
    add_trust_checkpoint,
    natural,
    positive_int,
    usage_errors,
)
from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader
from mmseg_reco.models import ReCoLoss
from mmseg_reco.models.preprocess import MultiBranchDataPreprocessor
from mmseg_reco.visualization import PANEL_WIDTH, Dots, batch_to_rgb, draw_panel, save_picture

EXAMPLE = """example:
  python tools/analysis_tools/show_sampling.py CONFIG --checkpoint work_dirs/NAME/iter_1000.pth \\
      --class car
"""


class Draws(NamedTuple):
    """What ReCo saw and drew in one step, of B images at the size (h, w) of representations.

    Attributes:
        images (Tensor): As the network got them (B, 3, H, W).
        labels (Tensor): Ignored where a pixel takes no part (B, h, w), int64.
        probs (Tensor): Probability of every class (B, C, h, w).
        queries (Tensor): Pixels of the batch, of each class (C, Q), int64.
        active (Tensor): Classes that have queries (C,), bool.
        negatives (Tensor): Pixels of the batch, of each query (C, Q, M), int64.
    """

    images: Tensor
    labels: Tensor
    probs: Tensor
    queries: Tensor
    active: Tensor
    negatives: Tensor


def reco_of(model: nn.Module) -> ReCoLoss:
    """The ReCoLoss of a model.

    Raises:
        ValueError: It has none.
    """
    for part in model.modules():
        if isinstance(part, ReCoLoss):
            return part
    raise ValueError('The model has no ReCoLoss: there are no queries to draw.')


def record(model: nn.Module, batch: dict) -> Draws:
    """Run one training step, without learning, and keep what its ReCoLoss sampled."""
    loss = reco_of(model)
    seen: dict[str, list] = dict(images=[], arguments=[], queries=[], negatives=[])

    def recorded(function, name):
        def call(*args, **kwargs):
            seen[name].append(function(*args, **kwargs))
            return seen[name][-1]
        return call

    loss.query_sampler.sample = recorded(loss.query_sampler.sample, 'queries')
    loss.key_sampler.sample = recorded(loss.key_sampler.sample, 'negatives')
    loss.register_forward_pre_hook(lambda _, args: seen['arguments'].append(args))
    network = getattr(model, 'student', model)
    network.backbone.register_forward_pre_hook(lambda _, args: seen['images'].append(args[0]))
    if hasattr(model, 'semi_train_cfg'):
        model.semi_train_cfg.update(burn_in=0, ramp_up=0)
    with torch.no_grad():
        data = model.data_preprocessor(batch, True)
        model.loss(**data)
    (queries, active), = seen['queries']
    (_, labels, probs), = seen['arguments']
    images = torch.cat(seen['images'])[:len(labels)]  # without those of perturbed features
    return Draws(images, labels, probs, queries, active, torch.cat(seen['negatives']))


def images_of(model: nn.Module, images: Tensor, cfg: Config) -> list[np.ndarray]:
    """RGB (H, W, 3), uint8, of what a network was given."""
    preprocessor = model.data_preprocessor
    if not isinstance(preprocessor, MultiBranchDataPreprocessor):
        preprocessor = MultiBranchDataPreprocessor(cfg.model.data_preprocessor).to(images.device)
    return batch_to_rgb(preprocessor.to_rgb(images))


def dots_of(
    pixels: Tensor, draws: Draws, pictures: list[np.ndarray], star: int | None = None
) -> list[Dots]:
    """Pixels of the batch, each once, over the image that they are in; one of them as a star."""
    height, width = draws.labels.shape[-2:]
    pixels = np.unique(pixels.cpu().numpy())
    image, place = np.divmod(pixels, height * width)
    rows, columns = np.divmod(place, width)
    labels = draws.labels.cpu().numpy().ravel()[pixels]
    dots = []
    for number, picture in enumerate(pictures):
        mine = image == number
        scale = np.divide(picture.shape[:2], (height, width))
        places = (np.stack([rows, columns], 1)[mine] + 0.5) * scale - 0.5
        at = np.flatnonzero(pixels[mine] == star)
        dots.append(Dots(picture, places, labels[mine], at[0] if len(at) else None))
    return dots


def own_probability(draws: Draws, ignore_index: int) -> np.ndarray:
    """Probability of each pixel's own class (B, h, w); NaN where it takes no part."""
    ignored = draws.labels == ignore_index
    own = draws.probs.gather(1, draws.labels.masked_fill(ignored, 0)[:, None])[:, 0]
    return own.float().masked_fill(ignored, torch.nan).cpu().numpy()


def columns_of(draws: Draws, pictures: list[np.ndarray], class_id: int, class_name: str,
               ignore_index: int) -> dict[str, list]:
    """Titled columns, one row for each image of the batch."""
    query = draws.queries[class_id, 0]
    keys = torch.cat([query[None], draws.negatives[class_id, 0]])
    return {
        'image, as fed': pictures,
        'labels of ReCo': list(draws.labels.cpu().numpy()),
        'probability of the label\n(black 0, white 1)': list(own_probability(draws, ignore_index)),
        'queries': dots_of(draws.queries[draws.active], draws, pictures),
        f'negative keys of the star,\na query of {class_name}': dots_of(
            keys, draws, pictures, int(query)),
    }


def table_of(draws: Draws, classes: Sequence[str], class_id: int, threshold: float) -> PrettyTable:
    """Of each class its pixels, hard ones, queries, and share of the negative keys of one class."""
    num_classes, labels = len(classes), draws.labels.cpu().flatten()
    valid = (labels >= 0) & (labels < num_classes)
    probs = draws.probs.cpu().movedim(1, -1).flatten(0, -2)[valid]
    own = probs.gather(1, labels[valid, None])[:, 0]
    pixels = labels[valid].bincount(minlength=num_classes)
    hard = labels[valid][own < threshold].bincount(minlength=num_classes)
    keys = labels[draws.negatives[class_id].cpu().flatten()].bincount(minlength=num_classes)
    table = PrettyTable(['class', 'pixels', f'below {threshold:g} (%)', 'different queries',
                         f'keys of {classes[class_id]} (%)'], align='r')
    table.align['class'] = 'l'
    for number, name in enumerate(classes):
        queries = draws.queries[number].unique().numel() if draws.active[number] else 0
        table.add_row([name, int(pixels[number]),
                       f'{100 * hard[number] / pixels[number].clamp_min(1):.1f}', queries,
                       f'{100 * keys[number] / keys.sum():.1f}'])
    return table


def choose_class(draws: Draws, classes: Sequence[str], name: str | None) -> int:
    """Number of a class with queries: the one that is named, or the one with the most.

    Raises:
        ValueError: There is no such class, or it has no query or no negative key in this batch.
    """
    if name is not None and name not in classes:
        raise ValueError(f'--class {name}: the classes are {", ".join(classes)}.')
    different = torch.tensor([
        queries.unique().numel() if active else 0
        for queries, active in zip(draws.queries, draws.active, strict=True)])
    chosen = int(different.argmax()) if name is None else classes.index(name)
    present = set(draws.labels.unique().tolist()) & set(range(len(classes)))
    if different[chosen] == 0 or len(present) < 2:
        raise ValueError(
            f'In this batch {classes[chosen]} has no query or no negative key: ReCo contrasts at '
            'least two classes. Take another batch with --batch N, or another class.')
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a model with ReCoLoss')
    parser.add_argument('--checkpoint', help='weights; without them the networks are random')
    parser.add_argument('--class', dest='class_name', metavar='NAME',
                        help='of the query whose keys are drawn (default: the class with the most '
                        'different queries)')
    parser.add_argument('--batch', type=natural, default=0, help='number of the training batch')
    parser.add_argument('--number', type=positive_int, default=4,
                        help='images of the batch to draw')
    parser.add_argument('--out', type=Path,
                        help='picture to write (default: work_dirs/NAME_OF_CONFIG/sampling.png)')
    add_cfg_options(parser)
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    with usage_errors(parser):
        cfg = read_config(args.config, args.cfg_options)
        loader = training_loader(cfg)
        model = load_model(cfg, args.checkpoint, args.trust_checkpoint).train()
        batch = next(islice(training_batches(cfg, loader), args.batch, None))
        draws = record(model, batch)
        meta = loader.dataset.metainfo
        class_id = choose_class(draws, meta['classes'], args.class_name)
    loss = reco_of(model)
    columns = columns_of(draws, images_of(model, draws.images, cfg), class_id,
                         meta['classes'][class_id], loss.ignore_index)
    count = len(draws.images)
    home = int(draws.queries[class_id, 0]) // draws.labels[0].numel()
    rows = np.linspace(home, home + count - 1, min(args.number, count)).astype(int) % count
    columns = {title: [cells[row] for row in rows] for title, cells in columns.items()}
    picture = draw_panel(
        columns, meta['classes'], meta['palette'], loss.ignore_index, PANEL_WIDTH / len(columns))
    output = args.out or Path(cfg.work_dir) / 'sampling.png'
    print(table_of(draws, meta['classes'], class_id, loss.strong_threshold))
    with usage_errors(parser):
        save_picture(picture, output)
    print(f'{len(rows)} of the {count} images of batch {args.batch} drawn to {output}')


if __name__ == '__main__':
    main()
