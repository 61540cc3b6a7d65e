# Licensed under the Apache License, Version 2.0.
"""Check the training and validation data of a config: every list, image and mask."""

import argparse
import sys

from mmengine.config import Config
from mmengine.utils import ProgressBar
from mmseg.registry import DATASETS
from prettytable import PrettyTable

import mmseg_reco  # noqa: F401
from mmseg_reco.datasets.building import check_list_file
from mmseg_reco.datasets.checks import (
    Problem,
    Report,
    check_branches,
    check_dataset,
    check_losses,
    check_num_classes,
    check_overlaps,
    leaf_datasets,
)
from mmseg_reco.datasets.pipelines import map_leaf_configs
from mmseg_reco.engine.command_line import add_cfg_options, positive_int, usage_errors
from mmseg_reco.engine.offline import read_config

SHARES = 'share of pixels with a class'


def build_parts(cfg: Config, split: str) -> dict:
    """Datasets of a split, by name; none if the config has no such split."""
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        return {}

    def edit(config: dict) -> dict:
        check_list_file(config)
        # mmengine cannot serialise an empty dataset; built without that, it can be reported
        return {**config, 'serialize_data': False}

    return leaf_datasets(DATASETS.build(map_leaf_configs(loader['dataset'], edit)), split)


def print_tables(reports: list[Report]) -> None:
    """A line per dataset, then a line per class."""
    summary = PrettyTable(['dataset', 'images', 'classes present', 'ignored', 'bad files'])
    for report in reports:
        pixels = report.pixels.sum() + report.ignored
        present = len(report.classes) - len(report.absent)
        summary.add_row([
            report.name, report.num_images,
            f'{present} of {len(report.classes)}' if pixels else 'no masks read',
            f'{report.ignored / pixels:.2%}' if pixels else '', len(report.problems)])
    print(summary)
    with_masks = [report for report in reports if report.pixels.any()]
    for classes in dict.fromkeys(report.classes for report in with_masks):
        same = [report for report in with_masks if report.classes == classes]
        names = (report.name if report.level is None else f'{report.name}, before {report.level}'
                 for report in same)
        table = PrettyTable([SHARES, *names])
        table.align[SHARES] = 'l'
        for index, name in enumerate(classes):
            table.add_row([name, *(f'{report.pixels[index] / report.pixels.sum():.3%}'
                                   for report in same)])
        print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/check_data.py my_reco.py --workers 4\n'
               'status: 0 in order, 1 problems were found, 2 wrong usage')
    parser.add_argument('config', help='train config file')
    parser.add_argument('--workers', type=positive_int, default=2, help='number of threads')
    add_cfg_options(parser)
    args = parser.parse_args()
    with usage_errors(parser):
        cfg = read_config(args.config, args.cfg_options)

    parts: dict = {}
    problems: list[Problem] = []
    for split in ('train', 'val'):
        try:
            parts[split] = build_parts(cfg, split)
        except (AssertionError, OSError, ValueError) as error:
            parts[split] = {}
            problems.append(Problem(f'{split} data', f'cannot be built: {error or repr(error)}'))

    overlaps, remarks = check_overlaps(parts['train'], parts['val'])
    problems += overlaps
    leaves = {**parts['train'], **parts['val']}
    problems += check_num_classes(leaves, cfg.get('model')) + check_losses(cfg.get('model'))
    if parts['train']:
        problems += check_branches(parts['train'], cfg.get('model'))
    reports = []
    if leaves:
        bar = ProgressBar(sum(map(len, leaves.values())), file=sys.stderr)
        reports = [check_dataset(dataset, name, args.workers, bar.update)
                   for name, dataset in leaves.items()]
        print(file=sys.stderr)
        print_tables(reports)
    for report in reports:
        problems += report.problems
        remarks += report.remarks
    for remark in remarks:
        print(f'Note: {remark}')
    for file, text in problems:
        print(f'BAD {file}: {text}')
    print(f'{len(problems)} problems found.' if problems else 'The data are in order.')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
