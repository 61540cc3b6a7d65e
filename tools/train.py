# Licensed under the Apache License, Version 2.0.
"""Train a segmentor: mmseg's train.py, with resume on any torch and processes on CPU."""

import argparse

from mmseg_reco.engine.checkpoint import safe_checkpoint_loading
from mmseg_reco.engine.command_line import add_common_arguments, parse_args
from mmseg_reco.engine.config_check import check_training
from mmseg_reco.engine.launch import (
    build_runner,
    enable_amp,
    finish,
    load_config,
    make_resumable,
    resume_latest,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Train a segmentor',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n'
               '  python tools/train.py configs/reco/deeplabv3plus_r101_voc_partial.py --amp\n'
               '  python tools/train.py my_reco.py --resume --cfg-options randomness.seed=0')
    parser.add_argument('config', help='train config file')
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue from the latest checkpoint in the work directory, or from the one that '
        '--cfg-options load_from=... names',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    args = parse_args(parser)

    cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    make_resumable(cfg)
    if args.amp:
        enable_amp(cfg)
    if args.resume:
        resume_latest(cfg, explicit='load_from' in (args.cfg_options or {}))
    try:
        with safe_checkpoint_loading(args.trust_checkpoint):
            runner = build_runner(cfg)
            check_training(runner)
            runner.train()
    except SystemExit as stop:  # of PreemptionHook, on all ranks alike
        finish(stop.code)
        raise
    finish()


if __name__ == '__main__':
    main()
