# Licensed under the Apache License, Version 2.0.
"""How time and memory of the ReCo loss grow with classes, pixels, and queries x negatives.

One of the three grows at a time, the others stay at the paper's setting for VOC. The table goes to
the screen, the plot (log-log) to a file. Times are of forward + backward, best of some; on the CPU,
the processor time of all threads, since the machine may be shared. Memory is the most that a step
holds beyond what was held before, gradient included.

    python tools/benchmarks/reco_scale.py --out docs/images/reco_scale.png
"""

import argparse
from typing import NamedTuple

import matplotlib
import numpy as np
import reco_loss  # before torch: it sets how threads wait
import torch
from measure import clock, held, machine, timed

from mmseg_reco.engine.command_line import positive_int
from mmseg_reco.models.losses import ReCoLoss

# A step that takes more seconds than this is not repeated.
PATIENCE = 20


class Setting(NamedTuple):
    """A size of the problem; by default the paper's for VOC."""

    side: int = 81
    classes: int = 21
    queries: int = 256
    negatives: int = 512
    images: int = 20
    channels: int = 256


SWEEPS = {
    'classes': [Setting(classes=c) for c in (2, 5, 21, 60, 150, 400, 1000)],
    'pixels of an image': [Setting(side=s) for s in (41, 57, 81, 115, 161, 193)],
    'queries x negatives': [Setting(queries=n, negatives=n) for n in (64, 128, 256, 512, 1024)],
}


class Result(NamedTuple):
    """Seconds and MB of a step, and what all its keys would hold if they were gathered."""

    size: int
    wall: float
    cpu: float
    memory: float
    gathered: float


def measure(name: str, setting: Setting, rounds: int, device: torch.device) -> Result:
    embeddings, labels, probs = reco_loss.make_batch(
        setting.images, setting.channels, setting.side, setting.classes, device, torch.float32
    )
    # With so many classes 255 is one of them.
    loss = ReCoLoss(setting.queries, setting.negatives, ignore_index=-1).to(device)

    def step() -> None:
        torch.autograd.grad(loss(embeddings, labels, probs), embeddings)

    if device.type == 'cuda':
        step()  # compiles
    times = []
    memory = held(lambda: times.append(timed(step, device)), device).peak / 1e6
    while len(times) <= rounds and times[0].wall < PATIENCE:
        times.append(timed(step, device))
    wall, cpu = np.min(times, axis=0)
    assert int(loss.diagnostics['classes_present']) == setting.classes
    pairs = setting.queries * setting.negatives
    size = {
        'classes': setting.classes,
        'pixels of an image': setting.side**2,
        'queries x negatives': pairs,
    }[name]
    gathered = setting.classes * pairs * setting.channels * 4 / 1e6
    return Result(size, wall, cpu, memory, gathered)


def plot(results: dict[str, list[Result]], device: torch.device, title: str, out: str) -> None:
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    plt.rcParams.update({'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False})
    figure, axes = plt.subplots(2, 3, figsize=(9.5, 5.4), sharex='col', sharey='row')
    for column, (name, rows) in zip(axes.T, results.items(), strict=True):
        sizes = np.array([row.size for row in rows])
        time_axes, memory_axes = column
        seconds = np.array([getattr(row, clock(device)) for row in rows])
        time_axes.loglog(sizes, seconds, 'o-', color='#0072B2')
        time_axes.loglog(
            sizes, seconds[-1] * sizes / sizes[-1], ':', color='0.4', label='proportional'
        )
        memory_axes.loglog(sizes, [row.memory for row in rows], 's-', color='#D55E00', label='step')
        memory_axes.loglog(
            sizes, [row.gathered for row in rows], '--', color='0.4', label='all keys, if gathered'
        )
        memory_axes.set_xlabel(name)
        memory_axes.xaxis.set_minor_formatter('')  # else they overlap within a decade
        for axis in column:
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel('processor time, s' if clock(device) == 'cpu' else 'time, s')
    axes[1, 0].set_ylabel('extra memory, MB')
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=positive_int, default=2)
    parser.add_argument('--rounds', type=positive_int, default=3)
    parser.add_argument('--out', default='reco_scale.png')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    print(machine(device))
    results = {}
    for name, settings in SWEEPS.items():
        print(f'{name:>20}   wall ms     CPU ms   extra MB   all keys, MB', flush=True)
        results[name] = []
        for setting in settings:
            row = measure(name, setting, args.rounds, device)
            results[name].append(row)
            print(f'{row.size:20}{1e3 * row.wall:10.1f}{1e3 * row.cpu:11.1f}{row.memory:11.0f}'
                  f'{row.gathered:15.0f}', flush=True)
    where = 'one GPU' if device.type == 'cuda' else f'{args.threads} CPU threads'
    title = (
        f'ReCo loss, forward + backward, {where}; base: 20 x 256 x 81 x 81, 21 classes, 256 x 512'
    )
    plot(results, device, title, args.out)
    print(f'Written: {args.out}')


if __name__ == '__main__':
    main()
