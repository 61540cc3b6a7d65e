# Licensed under the Apache License, Version 2.0.
r"""What a training step costs: supervised, with ClassMix, with ReCo, side by side.

One process takes the steps in turns, round by round: preprocessing, forward passes of student and
teacher, augmentation, losses, backward pass and update, without loading data. The images are noise
at the configs' crop and batch size, labels are blocks of all classes, and every pixel is trusted
and hard, so that ReCo draws all it can. On the CPU the time is that of the process, which other
processes hardly change.

    python tools/benchmarks/step_cost.py --amp bfloat16
    python tools/benchmarks/step_cost.py --amp float16 --channels-last \
        configs/reco/deeplabv3plus_r101_voc_{supervised-60,semi-60_classmix,semi-60}.py
"""

import argparse
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median

import torch
from measure import bar, elapsed, machine, peak_memory
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_reco  # noqa: F401  registers everything
from mmseg_reco.engine.command_line import positive_int
from mmseg_reco.engine.hooks.mean_teacher_hook import update_teacher
from mmseg_reco.engine.launch import batch_norm_for_cpu, enable_amp

CAMVID = 'configs/reco/deeplabv3plus_m-v2_camvid_'
CONFIGS = [f'{CAMVID}{name}.py' for name in ('supervised-20', 'semi-20_classmix', 'semi-20')]


def make_samples(count: int, size: tuple[int, int], num_classes: int) -> dict[str, list]:
    """Images of noise, and labels in blocks of all the classes, as a loader hands them over."""
    side = math.ceil(num_classes**0.5)
    rows, columns = (torch.arange(length) * side // length for length in size)
    labels = (rows[:, None] * side + columns).remainder(num_classes)
    return dict(
        inputs=[torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(count)],
        data_samples=[
            SegDataSample(
                gt_sem_seg=PixelData(data=labels[None].clone()),
                metainfo=dict(ori_shape=size, img_shape=size)) for _ in range(count)
        ])


def make_batch(cfg: Config) -> dict:
    """A batch of the config's size; in two branches where it is semi-supervised."""
    network = cfg.model.get('segmentor', cfg.model)
    shape = network.data_preprocessor.size, network.decode_head.num_classes
    loader = cfg.train_dataloader
    if loader.sampler.type != 'MultiSourceSampler':
        return make_samples(loader.batch_size, *shape)
    total, ratio = loader.sampler.batch_size, loader.sampler.source_ratio
    branches = dict(
        sup=make_samples(total * ratio[0] // sum(ratio), *shape),
        unsup=make_samples(total * ratio[1] // sum(ratio), *shape))
    return {key: {name: batch[key] for name, batch in branches.items()}
            for key in ('inputs', 'data_samples')}


def make_step(
    cfg: Config, device: torch.device, channels_last: bool
) -> Callable[[], dict[str, float]]:
    """One training step of a config, always on the same batch, as a Runner goes through it.

    That is with the teacher's update, and with the losses read for the log.
    """
    network = cfg.model.get('segmentor', cfg.model)
    network.backbone.init_cfg = network.pretrained = None
    if 'segmentor' in cfg.model:
        cfg.model.setdefault('semi_train_cfg', {}).update(weak_threshold=0., burn_in=0)
    for loss in cfg.model.get('losses', []):
        if loss.type == 'ReCoLoss':
            loss.strong_threshold = 1.
    if device.type == 'cpu':
        batch_norm_for_cpu(cfg)
    model = MODELS.build(cfg.model).to(device).train()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = make_batch(cfg)

    def step() -> dict[str, float]:
        losses = model.train_step(batch, wrapper)
        if hasattr(model, 'teacher'):
            update_teacher(model.student, model.teacher, momentum=0.01)
        return {name: loss.item() for name, loss in losses.items()}

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', default=CONFIGS, help='the first is the yardstick')
    parser.add_argument('--rounds', type=positive_int, default=9, help='steps of each config')
    parser.add_argument('--threads', type=positive_int, default=1)
    parser.add_argument('--amp', choices=('float16', 'bfloat16'))
    parser.add_argument('--channels-last', action='store_true')
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if args.amp == 'float16' and device.type == 'cpu':
        parser.error('float16 needs a GPU: take --amp bfloat16')

    steps = {}
    for path in args.configs:
        cfg = Config.fromfile(path)
        if args.amp:
            enable_amp(cfg)
            if device.type == 'cuda':
                cfg.optim_wrapper.dtype = args.amp
            if args.amp == 'bfloat16' and device.type == 'cuda':  # which needs no scaling
                cfg.optim_wrapper.loss_scale = dict(enabled=False)
        torch.backends.cudnn.benchmark = cfg.get('env_cfg', {}).get('cudnn_benchmark', False)
        steps[Path(path).stem] = make_step(cfg, device, args.channels_last)
    print(f'{machine(device)}, {args.amp or "float32"}'
          f'{", channels last" if args.channels_last else ""}')
    for step in steps.values():  # momentum is allocated, and algorithms are chosen
        step()
    memory = {name: peak_memory(step, device) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _, name in bar(list(product(range(args.rounds), steps))):
        seconds[name].append(elapsed(steps[name], device))

    print('| Step | ms: median [least, most] | of the first | of the one above | peak MiB |')
    print('| --- | --- | --- | --- | --- |')
    first = above = None
    for name, taken in seconds.items():
        first, above = first or taken, above or taken
        ratios = [median(a / b for a, b in zip(taken, other, strict=True))
                  for other in (first, above)]
        print(f'| {name} | {1e3 * median(taken):.0f} [{1e3 * min(taken):.0f}, '
              f'{1e3 * max(taken):.0f}] | {ratios[0]:.2f} | {ratios[1]:.2f} | '
              f'{memory[name] / 2**20:.0f} |')
        above = taken


if __name__ == '__main__':
    main()
