# Licensed under the Apache License, Version 2.0.
"""How hard each loss pulls: the norm of its gradient in each part of the network.

A loss's value says little about its weight: ReCo's cannot fall below 2.3 at the paper's settings,
next to a cross-entropy of 0.3. What moves the network is the gradient. Loss weights
are included; schedules of SamplingHook are not applied.
"""

import argparse
from collections.abc import Mapping
from itertools import islice
from statistics import median

import torch
import torch.nn as nn
from mmengine.utils import ProgressBar
from prettytable import PrettyTable

from mmseg_reco.engine.command_line import (
    add_cfg_options,
    add_trust_checkpoint,
    positive_int,
    usage_errors,
)
from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader

EXAMPLE = """example:
  python tools/analysis_tools/loss_balance.py CONFIG --checkpoint work_dirs/NAME/iter_1000.pth

The column "of the first" is the norm over that of the first loss: near 1, both have a say; far
above, this one drowns it; far below, it is hardly heard.
"""


def gradient_norms(model: nn.Module, batch: dict) -> dict[str, dict[str, float]]:
    """Of each optimised loss its value, and the norm of its gradient in each part of the student.

    Args:
        model (nn.Module): In training mode; not changed, but for statistics of BN.
        batch (dict): As the training loader gives it.
    """
    if hasattr(model, 'semi_train_cfg'):
        model.semi_train_cfg.update(burn_in=0, ramp_up=0)
    student = getattr(model, 'student', model)
    parts = {name: [weight for weight in part.parameters() if weight.requires_grad]
             for name, part in student.named_children()}
    parts = {name: weights for name, weights in parts.items() if weights}
    losses = {name: sum(value) if isinstance(value, list) else value.mean()
              for name, value in model.loss(**model.data_preprocessor(batch, True)).items()
              if 'loss' in name}
    weights = [weight for part in parts.values() for weight in part]
    norms = {}
    for name, loss in losses.items():
        gradients = iter(torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True))
        norms[name] = dict(value=loss.item())
        for part, members in parts.items():
            norms[name][part] = sum(
                gradient.float().square().sum().item()
                for gradient in islice(gradients, len(members)) if gradient is not None)**0.5
    return norms


def table_of(batches: list[Mapping[str, Mapping[str, float]]]) -> PrettyTable:
    """Medians over batches; the first loss is the yardstick."""
    names, columns = list(batches[0]), list(next(iter(batches[0].values())))
    header = ['loss', 'value']
    for part in columns[1:]:
        header += [part, f'{part}, of the first']
    table = PrettyTable(header, align='r')
    table.align['loss'] = 'l'
    for name in names:
        row = [name, f'{median(batch[name]["value"] for batch in batches):.3g}']
        for part in columns[1:]:
            row.append(f'{median(batch[name][part] for batch in batches):.3g}')
            ratios = [batch[name][part] / batch[names[0]][part] for batch in batches
                      if batch[names[0]][part]]
            row.append(f'{median(ratios):.2f}' if ratios else '-')
        table.add_row(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--checkpoint', help='weights; without them the networks are random')
    parser.add_argument('--batches', type=positive_int, default=8,
                        help='training batches (default: 8)')
    add_cfg_options(parser)
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    with usage_errors(parser):
        cfg = read_config(args.config, args.cfg_options)
        loader = training_loader(cfg)
        model = load_model(cfg, args.checkpoint, args.trust_checkpoint).train()
        progress = ProgressBar(args.batches)
        norms = []
        for batch in islice(training_batches(cfg, loader), args.batches):
            norms.append(gradient_norms(model, batch))
            progress.update()
    print()
    print(table_of(norms))


if __name__ == '__main__':
    main()
