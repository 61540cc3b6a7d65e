# Licensed under the Apache License, Version 2.0.
"""Draw what a run kept about its classes, finished or not, without its model or data.

Class relations with their tree, how they moved, and prototypes, from the file of ClassRelationHook;
quality of pseudo-labels, from that of PseudoLabelQualityHook.
"""

import argparse
from pathlib import Path

from mmseg_reco.engine.command_line import usage_errors
from mmseg_reco.engine.hooks import ClassHistory, PseudoLabelHistory

HISTORIES = (ClassHistory, PseudoLabelHistory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: python tools/analysis_tools/draw_classes.py work_dirs/NAME --out pictures')
    parser.add_argument('work_dir', type=Path, help='work directory of the run')
    parser.add_argument('--out', type=Path, help='folder for the pictures (default: work_dir)')
    args = parser.parse_args()
    found = [kind for kind in HISTORIES if (args.work_dir / kind.file_name).is_file()]
    if not found:
        parser.error(f'{args.work_dir} has neither ' + ' nor '.join(
            kind.file_name for kind in HISTORIES) + ': name the work directory of a run with '
            'ClassRelationHook or PseudoLabelQualityHook')
    out = args.out or args.work_dir
    with usage_errors(parser):
        out.mkdir(parents=True, exist_ok=True)
        for kind in found:
            history = kind.load(args.work_dir)
            for name, figure in history.draw().items():
                figure.savefig(out / f'{name}.png')
                print(f'{out / name}.png: {len(history.iterations)} records, up to iteration '
                      f'{history.iterations[-1]}')


if __name__ == '__main__':
    main()
