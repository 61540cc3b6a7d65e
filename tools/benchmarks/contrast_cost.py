# Licensed under the Apache License, Version 2.0.
"""What contrast costs as maps grow: of all pixels, of sampled pixels (ReCo), of regions (RC2L).

Forward and backward pass of three losses on one image, from the maps that a network hands over to
the gradients that it gets back. Dense pixel contrast compares every pixel with every other. ReCo
runs with its paper's 256 queries a class and 512 negatives each, all classes present and all
pixels hard, so that no draw is spared. RC2L runs with its four losses, 100 queries of the student
and as many confident ones of the teacher, and includes building and matching the regions.

Time is taken in rounds, each of which goes over all sizes and losses in turns; on the CPU it is
the time of the process, which other processes hardly change. Memory is taken before, in a pass that
also warms up. Dense contrast stops where it would pass the limit.

    python tools/benchmarks/contrast_cost.py --out contrast_cost.png
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measure import bar, elapsed, machine, peak_memory, spread
from torch import Tensor

from mmseg_reco.engine.command_line import positive_int
from mmseg_reco.models.heads import semantic_scores
from mmseg_reco.models.losses import (
    ReCoLoss,
    RegionClassConsistencyLoss,
    RegionFeatureContrastiveLoss,
    RegionMaskContrastiveLoss,
    SemanticMaskConsistencyLoss,
)
from mmseg_reco.models.regions import HungarianMatcher, RegionPrediction, region_target
from mmseg_reco.models.utils import take_nearest

CHANNELS = 256
NUM_CLASSES = 21
NUM_QUERIES = 100
# Pixels of the image for each of the map, along a side.
STRIDE = 4

Step = Callable[[], object]
# Okabe and Ito's colours, which colour-blind readers tell apart, and a marker each.
LOOKS = {
    'dense pixel contrast': ('#D55E00', 's'),
    'ReCo': ('#0072B2', 'o'),
    'RC²L, four region losses': ('#009E73', '^'),
}
DENSE, RECO, REGIONS = LOOKS


def dense_contrast(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Supervised InfoNCE of every pixel against every other pixel of the batch.

    .. math:: -\frac{1}{P} \sum_i \frac{1}{|S_i|} \sum_{j \in S_i} \log
        \frac{\exp(z_i \cdot z_j / \tau)}{\sum_{k \neq i} \exp(z_i \cdot z_k / \tau)}

    with unit vectors z and :math:`S_i` the other pixels of the class of i (SupCon,
    arXiv 2004.11362, with pixels for images). The mean over positives is linear in :math:`z_j`
    and comes from class sums, so that only what must be quadratic is.

    Args:
        embeddings (Tensor): Shape (B, D, h, w).
        labels (Tensor): In [0, K). Shape (B, h, w), int64.
        temperature (float): > 0.

    Returns:
        Tensor: Mean over the pixels whose class has another pixel; scalar.
    """
    vectors = F.normalize(embeddings.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)
    labels = labels.flatten()
    member = (labels == torch.arange(NUM_CLASSES, device=labels.device)[:, None]).to(vectors.dtype)
    others = member.sum(1)[labels] - 1
    positive = (vectors * (member @ vectors)[labels]).sum(1) - vectors.square().sum(1)
    positive = positive / (temperature * others.clamp_min(1))
    logits = (vectors / temperature) @ vectors.t()
    losses = logits.fill_diagonal_(-torch.inf).logsumexp(1) - positive
    return (losses * (others > 0)).sum() / (others > 0).sum().clamp_min(1)


def make_labels(side: int, device: torch.device) -> Tensor:
    """Blocks of all the classes. Shape (1, side, side), int64."""
    blocks = torch.arange(36)[torch.randperm(36)].remainder(NUM_CLASSES).view(1, 6, 6)
    return take_nearest(blocks, (side, side)).to(device)


def make_maps(channels: int, side: int, device: torch.device) -> Tensor:
    """Smooth random maps. Shape (1, channels, side, side)."""
    return F.interpolate(torch.randn(1, channels, 8, 8, device=device), (side, side),
                         mode='bicubic')


def dense_step(side: int, device: torch.device) -> Step:
    embeddings = make_maps(CHANNELS, side, device).requires_grad_()
    labels = make_labels(side, device)
    return lambda: torch.autograd.grad(dense_contrast(embeddings, labels), embeddings)


def reco_step(side: int, device: torch.device) -> Step:
    embeddings = make_maps(CHANNELS, side, device).requires_grad_()
    labels = make_labels(side, device)
    probs = make_maps(NUM_CLASSES, side, device).softmax(1)
    loss = ReCoLoss(num_queries=256, num_negatives=512, strong_threshold=1.)
    return lambda: torch.autograd.grad(loss(embeddings, labels, probs), embeddings)


def predict(features: Tensor, mask_logits: Tensor, class_logits: Tensor) -> RegionPrediction:
    """Regions of a query head, as ``QueryEncoderDecoder.regions`` makes them."""
    scores = semantic_scores(class_logits, mask_logits)
    return RegionPrediction(mask_logits.sigmoid(), features,
                            scores / scores.sum(1, keepdim=True).clamp_min(1), class_logits)


def region_step(side: int, device: torch.device) -> Step:
    student, teacher = (
        (
            make_maps(CHANNELS, side, device),
            5 * make_maps(NUM_QUERIES, side, device),
            torch.randn(1, NUM_QUERIES, NUM_CLASSES + 1, device=device),
        )
        for _ in range(2)
    )
    # The teacher is sure of all its queries.
    classes = torch.arange(NUM_QUERIES, device=device).remainder(NUM_CLASSES)
    teacher[2].add_(20 * F.one_hot(classes, NUM_CLASSES + 1))
    for maps in student:
        maps.requires_grad_()
    semantic = make_labels(STRIDE * side, device)
    valid = torch.ones_like(semantic, dtype=torch.bool)
    origin = torch.arange(semantic.numel(), device=device).view_as(semantic)
    matcher = HungarianMatcher()
    losses = [
        RegionMaskContrastiveLoss(),
        RegionFeatureContrastiveLoss(),
        RegionClassConsistencyLoss(),
        SemanticMaskConsistencyLoss(),
    ]

    def step() -> tuple[Tensor, ...]:
        prediction = predict(*student)
        with torch.no_grad():
            found = predict(*teacher)
        target = region_target(prediction, found, semantic, valid, origin,
                               tuple(semantic.shape[-2:]), 'query', 0.7, 0, matcher)
        return torch.autograd.grad(sum(loss(prediction, target) for loss in losses), student)

    return step


MAKERS = {DENSE: dense_step, RECO: reco_step, REGIONS: region_step}

# Of each loss, by side of the map: bytes; and seconds of each round.
Memory = dict[str, dict[int, int]]
Seconds = dict[str, dict[int, list[float]]]


def measure(sides: Sequence[int], rounds: int, limit: float,
            device: torch.device) -> tuple[Memory, Seconds]:
    """Peak memory, then time, of each loss at each size up to which it stays within the limit."""
    steps: dict[str, dict[int, Step]] = {name: {} for name in MAKERS}
    memory: Memory = {name: {} for name in MAKERS}
    for side, name in bar(list(product(sides, MAKERS))):
        if name == DENSE and memory[name]:
            last, peak = list(memory[name].items())[-1]
            if peak * (side / last)**4 > limit:
                continue
        steps[name][side] = MAKERS[name](side, device)
        memory[name][side] = peak_memory(steps[name][side], device)
    seconds: Seconds = {name: {side: [] for side in steps[name]} for name in MAKERS}
    for _, side, name in bar(list(product(range(rounds), sides, MAKERS))):
        if side in steps[name]:
            seconds[name][side].append(elapsed(steps[name][side], device))
    return memory, seconds


def fit_slope(sides: Sequence[int], values: Sequence[float]) -> float:
    """Exponent k of the power law value ~ (side^2)^k: least squares on logarithms."""
    return np.polyfit(2 * np.log(sides), np.log(values), 1)[0]


def table(memory: Memory, seconds: Seconds) -> str:
    """Markdown: a row for each size, with a dash where a loss was stopped."""
    names = list(memory)
    lines = [
        '| map | pixels | ' + ' | '.join(f'{name}: ms | MiB' for name in names) + ' |',
        '| ---: | ---: |' + ' ---: | ---: |' * len(names),
    ]
    for side in sorted(set().union(*memory.values())):
        cells = [f'{side}²', f'{side**2}']
        for name in names:
            if side not in memory[name]:
                cells += ['–', '–']
                continue
            cells += [spread(1e3 * np.array(seconds[name][side])),
                      f'{memory[name][side] / 2**20:.1f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def slope_table(memory: Memory, seconds: Seconds, fit_from: int) -> str:
    """Markdown: exponents over the maps of at least ``fit_from`` a side.

    The exponent of time is that of the medians, with the lowest and highest of single rounds.
    """
    lines = [
        '| cost ∝ pixels^k | k of time [lowest, highest round] | k of memory | maps |',
        '| --- | ---: | ---: | ---: |',
    ]
    for name in memory:
        sides = [side for side in memory[name] if side >= fit_from]
        if len(sides) < 2:
            continue
        times = np.array([seconds[name][side] for side in sides])
        rounds = [fit_slope(sides, column) for column in times.T]
        lines.append(
            f'| {name} | {fit_slope(sides, np.median(times, 1)):.2f} '
            f'[{min(rounds):.2f}, {max(rounds):.2f}] | '
            f'{fit_slope(sides, [memory[name][side] for side in sides]):.2f} | '
            f'{sides[0]}² to {sides[-1]}² |'
        )
    return '\n'.join(lines)


def draw(memory: Memory, seconds: Seconds, note: str) -> Figure:
    """Time and memory over pixels, both logarithmic, beside lines of slope 1 and 2."""
    figure = Figure(figsize=(10, 4.6), layout='constrained')
    FigureCanvasAgg(figure)
    titles = 'forward + backward, ms', 'peak extra memory, MiB'
    for axes, title in zip(figure.subplots(1, 2), titles, strict=True):
        for name, (color, marker) in LOOKS.items():
            sides = np.array(list(memory[name]))
            if title.endswith('ms'):
                rounds = 1e3 * np.array(list(seconds[name].values()))
                low, values, high = np.percentile(rounds, [25, 50, 75], axis=1)
                axes.fill_between(sides**2, low, high, color=color, alpha=0.25, linewidth=0)
            else:
                values = np.array(list(memory[name].values())) / 2**20
            axes.plot(sides**2, values, color=color, marker=marker, label=name)
            # What it should grow like, a little below its line.
            exponent = {DENSE: 2, REGIONS: 1}.get(name)
            if exponent:
                ends = np.array([max(sides[0], sides[-1] / 2.5), sides[-1]]) ** 2
                guide = 0.5 * values[-1] * (ends / ends[-1]) ** exponent
                axes.plot(ends, guide, color='0.35', linestyle='--', linewidth=1)
                middle = np.sqrt(ends.prod()), np.sqrt(guide.prod())
                axes.annotate(f'slope {exponent}', middle, (6, -2), va='top',
                              textcoords='offset points', color='0.35')
        axes.set(xscale='log', yscale='log', title=title, xlabel='pixels of the map')
        ticks = np.array(sorted(set().union(*memory.values())))
        axes.set_xticks(ticks**2, [f'{side}²' for side in ticks])
        axes.minorticks_off()
        axes.grid(color='0.9')
        axes.spines[['top', 'right']].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.supxlabel(note, fontsize=8, color='0.35')
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sides', nargs='+', type=positive_int,
                        default=[16, 24, 32, 48, 64, 96, 128, 192], help='of the square maps')
    parser.add_argument('--rounds', type=positive_int, default=5)
    parser.add_argument('--limit', type=float, default=2, help='GiB that dense contrast may take')
    parser.add_argument('--fit-from', type=positive_int, default=48, help='least side of the fit')
    parser.add_argument('--threads', type=positive_int, default=1)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, help='picture to write')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)

    memory, seconds = measure(sorted(args.sides), args.rounds, args.limit * 2**30, device)
    clock = 'CPU time' if device.type == 'cpu' else 'time'
    note = f'{machine(device)}; {clock}, median and quartiles of {args.rounds} rounds'
    print(f'{note}\n\n{table(memory, seconds)}\n\n{slope_table(memory, seconds, args.fit_from)}')
    if args.out:
        draw(memory, seconds, note).savefig(args.out, dpi=100, pil_kwargs=dict(optimize=True))
        print(f'\nWritten: {args.out}')


if __name__ == '__main__':
    main()
