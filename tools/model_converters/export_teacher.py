# Licensed under the Apache License, Version 2.0.
"""Take the teacher out of a checkpoint: a plain checkpoint, and config, of stock mmseg."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_reco.engine.checkpoint import (
    AtomicLocalBackend,
    check_fits,
    load_local,
    save_atomically,
)
from mmseg_reco.engine.command_line import add_trust_checkpoint, usage_errors
from mmseg_reco.engine.config_check import own_types
from mmseg_reco.engine.export import plain_checkpoint, plain_config


def read_checkpoint(args: argparse.Namespace) -> tuple[dict, str]:
    """The plain checkpoint, and what it is of, in words."""
    checkpoint = load_local(args.checkpoint, 'cpu', args.trust_checkpoint)
    try:
        plain, network = plain_checkpoint(checkpoint, 'student' if args.student else None)
    except ValueError as error:
        raise ValueError(f'{args.checkpoint} cannot be exported: {error}.') from None
    return plain, f'The {network}' if network else 'The network (there is no teacher in it)'


def read_config(args: argparse.Namespace, checkpoint: dict) -> Config:
    """The plain config; a stock segmentor built from it takes the plain checkpoint."""
    try:
        cfg = plain_config(Config.fromfile(args.config))
    except ValueError as error:
        raise ValueError(f'{args.config} is no config of a segmentor: {error}.') from None
    init_default_scope(cfg.default_scope)
    check_fits(checkpoint, MODELS.build(cfg.model), args.checkpoint, partly=False)
    return cfg


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/model_converters/export_teacher.py '
        'work_dirs/my_reco/iter_20000.pth \\\n      teacher.pth --config my_reco.py\n'
        '  writes teacher.pth and teacher.py, for mmseg.apis.init_model, MMSegInferencer and\n'
        "  mmseg's own tools/test.py",
    )
    parser.add_argument('checkpoint', help='checkpoint of a student and a teacher; one of a '
                        'supervised run of this package is made plain as well')
    parser.add_argument('out', type=Path, help='plain checkpoint to write')
    parser.add_argument('--student', action='store_true', help='export the student instead')
    parser.add_argument('--config', help='config of the run: the stock config is written beside '
                        'OUT, with the suffix .py. (The one stored in the checkpoint is not used: '
                        'reading it would execute it.)')
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    config_out = args.out.with_suffix('.py')
    if args.out == config_out:
        parser.error(f'{args.out} is to be a checkpoint, so its name cannot end in .py: the order '
                     'is CHECKPOINT OUT --config CONFIG')
    if args.config and not Path(args.config).is_file():
        parser.error(f'no such config file: {args.config}')
    for path in [args.out, config_out] if args.config else [args.out]:
        if path.exists():
            parser.error(f'{path} exists already: remove it, or choose another OUT')

    with usage_errors(parser):
        plain, network = read_checkpoint(args)
        cfg = read_config(args, plain) if args.config else None
        save_atomically(plain, args.out)
        if cfg:
            AtomicLocalBackend().put_text(cfg.pretty_text, config_out)

    meta = plain['meta']
    classes = meta.get('dataset_meta', {}).get('classes')
    print(f'{network} of iteration {meta.get("iter", "unknown")}, {len(plain["state_dict"])} '
          f'tensors: {args.out}')
    print(f'Classes: {", ".join(classes)}' if classes else 'Note: the checkpoint names no classes, '
          'so mmseg will take those of a data set with as many, or of Cityscapes.')
    if cfg:
        own = own_types(cfg.to_dict())
        print(f'Config of the stock segmentor: {config_out}')
        if own:
            print(f'Note: it needs mmseg_reco to be installed, for {", ".join(own)}.')


if __name__ == '__main__':
    main()
