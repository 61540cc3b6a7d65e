# Licensed under the Apache License, Version 2.0.
"""Evaluate a checkpoint: mmseg's test.py, with checkpoints read safely and processes on CPU."""

import argparse
from pathlib import Path

from mmengine.config import Config

from mmseg_reco.engine.checkpoint import safe_checkpoint_loading
from mmseg_reco.engine.command_line import add_common_arguments, parse_args
from mmseg_reco.engine.launch import (
    build_runner,
    finish,
    load_config,
)


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Switch the visualization hook on, to a window or to a directory."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a hook in the config: '
            "default_hooks = dict(visualization=dict(type='SegVisualizationHook'))"
        )
    hook['draw'] = True
    hook.setdefault('interval', 1)  # the hook's own default leaves most images out
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        cfg.visualizer['save_dir'] = args.show_dir


def use_tta(cfg: Config) -> None:
    """Predict with the config's test-time augmentation."""
    if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
        raise ValueError('--tta needs tta_pipeline and tta_model in the config.')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Test and evaluate a segmentor',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n'
               '  python tools/test.py my_reco.py work_dirs/my_reco/iter_20000.pth --show-dir out')
    parser.add_argument('config', help='config file of the model')
    parser.add_argument('checkpoint', help='checkpoint file or address')
    add_common_arguments(parser)
    parser.add_argument('--out', help='directory to save predictions to, for offline evaluation')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='directory to paint predictions to')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per shown picture')
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation')
    args = parse_args(parser)
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        parser.error(f'no such checkpoint: {args.checkpoint}')

    cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    if args.out is not None:
        cfg.test_evaluator.update(output_dir=args.out, keep_results=True)
    with safe_checkpoint_loading(args.trust_checkpoint):
        build_runner(cfg).test()
    finish()


if __name__ == '__main__':
    main()
