# Licensed under the Apache License, Version 2.0.
"""Time the ReCo loss, forward and backward, beside the published procedure in loops.

The loop does what the published code does: boolean masks class by class, the negative class of
every key from a categorical distribution, one draw of pixels for every query and negative class
through Python lists, all keys gathered as [queries, negatives, channels]. Both get the same batch.
Repetitions are interleaved, one of the loop to some of ours, so that whatever else the machine does
falls on both; ratios are of neighbours. Memory is the most that one step holds beyond what is
there before it: resident memory on the CPU, allocated memory on CUDA.

    python tools/benchmarks/reco_loss.py --threads 2
"""

import os

# Threads that spin while they wait take the time from others on a machine that is shared.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import argparse  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from measure import Seconds, bar, clock, elapsed, held, machine, spread, timed  # noqa: E402
from torch import Tensor  # noqa: E402

from mmseg_reco.engine.command_line import positive_int  # noqa: E402
from mmseg_reco.models.losses import ReCoLoss  # noqa: E402

TEMPERATURE, STRONG_THRESHOLD = 0.5, 0.97


def loop_reco_loss(
    embeddings: Tensor,
    labels: Tensor,
    probs: Tensor,
    num_queries: int,
    num_negatives: int,
    rng: np.random.Generator,
) -> Tensor:
    """The published procedure, in its loops.

    Args:
        embeddings (Tensor): Shape (B, D, h, w), float.
        labels (Tensor): Shape (B, h, w), int64, 255 where a pixel is not valid.
        probs (Tensor): Shape (B, C, h, w).
        num_queries (int): Queries of each class.
        num_negatives (int): Negative keys of each query.
        rng (np.random.Generator): Draws the pixels of the keys.

    Returns:
        Tensor: Scalar.
    """
    rows = embeddings.permute(0, 2, 3, 1)
    features, hard_features, prototypes = [], [], []
    for c in range(probs.size(1)):
        mask = labels == c
        if mask.sum() == 0:
            continue
        features.append(rows[mask])
        hard_features.append(rows[mask & (probs[:, c] < STRONG_THRESHOLD)])
        prototypes.append(rows[mask].mean(0, keepdim=True))
    present = len(features)
    if present < 2:
        return embeddings.sum() * 0
    prototypes = torch.cat(prototypes)
    loss = embeddings.new_zeros(())
    for i, hard in enumerate(hard_features):
        if len(hard) == 0:
            continue
        queries = hard[torch.randint(len(hard), (num_queries,))]
        with torch.no_grad():
            others = [*range(i + 1, present), *range(i)]
            similarity = F.cosine_similarity(prototypes[i, None], prototypes[others], dim=1)
            chances = torch.softmax(similarity / TEMPERATURE, 0)
            classes = torch.distributions.Categorical(chances).sample([num_queries, num_negatives])
            counts = torch.stack([(classes == j).sum(1) for j in range(len(others))], 1)
            ends = np.cumsum([len(features[j]) for j in others])
            starts = ends - [len(features[j]) for j in others]
            pixels = []
            for query in range(num_queries):
                for j in range(len(others)):
                    count = int(counts[query, j])
                    pixels += rng.integers(starts[j], ends[j], count).tolist()
            keys = torch.cat([features[j] for j in others])[pixels]
            keys = keys.view(num_queries, num_negatives, -1)
            positive = prototypes[i].expand(num_queries, 1, -1)
            keys = torch.cat([positive, keys], 1)
        logits = F.cosine_similarity(queries[:, None], keys, dim=2) / TEMPERATURE
        target = torch.zeros(num_queries, dtype=torch.int64, device=logits.device)
        loss = loss + F.cross_entropy(logits, target)
    return loss / present


def make_batch(
    images: int, channels: int, side: int, classes: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings with a gradient, blocks of labels that hold every class, probabilities."""
    grid = int(np.ceil(np.sqrt(2 * classes / images))) + 5
    labels = torch.arange(images * grid**2) % classes
    labels = labels[torch.randperm(len(labels))].view(images, 1, grid, grid).float()
    labels = F.interpolate(labels, (side, side), mode='nearest')[:, 0].long()
    centres = torch.randn(classes, channels)
    embeddings = torch.randn(images, channels, side, side)
    embeddings += centres[labels].permute(0, 3, 1, 2)
    probs = torch.rand(images, classes, side, side)
    return embeddings.to(device, dtype).requires_grad_(), labels.to(device), probs.to(device)


def bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy of 256 MiB, of 2 GiB on CUDA; best of 20."""
    source = torch.randn(2**29 if device.type == 'cuda' else 2**26, device=device)
    target = torch.empty_like(source)
    best = min(elapsed(lambda: target.copy_(source), device) for _ in range(20))
    return 2 * source.numel() * source.element_size() / best


def flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of square matrices, best of 20."""
    side = 8192 if device.type == 'cuda' else 2048
    square = torch.randn(side, side, device=device, dtype=dtype)
    best = min(elapsed(lambda: square @ square, device) for _ in range(20))
    return 2 * side**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=positive_int, default=20)
    parser.add_argument('--channels', type=positive_int, default=256)
    parser.add_argument('--side', type=positive_int, default=81)
    parser.add_argument('--classes', type=positive_int, default=21)
    parser.add_argument('--queries', type=positive_int, default=256)
    parser.add_argument('--negatives', type=positive_int, default=512)
    parser.add_argument('--threads', type=positive_int, default=2)
    parser.add_argument('--rounds', type=positive_int, default=7, help='steps of the loop')
    parser.add_argument('--ours', type=positive_int, default=5, help='steps of ours in a round')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    batch = make_batch(args.images, args.channels, args.side, args.classes, device, dtype)
    embeddings, labels, probs = batch
    if args.channels_last:
        embeddings = embeddings.detach().to(memory_format=torch.channels_last).requires_grad_()
    # The loop in float32: it has no other precision.
    loop_embeddings = embeddings.detach().float().requires_grad_()
    loss = ReCoLoss(args.queries, args.negatives, TEMPERATURE, STRONG_THRESHOLD).to(device)
    values = dict(loop=[], ours=[])

    def loop_step() -> None:
        value = loop_reco_loss(loop_embeddings, labels, probs, args.queries, args.negatives, rng)
        torch.autograd.grad(value, loop_embeddings)
        values['loop'].append(value.detach())

    def our_step() -> None:
        value = loss(embeddings, labels, probs)
        torch.autograd.grad(value, embeddings)
        values['ours'].append(value.detach())

    our_step()  # warms up
    if device.type == 'cuda':
        loop_step()
    loop, ours, loop_memory = [], [], []
    our_memory = held(our_step, device).peak
    for _ in bar(range(args.rounds)):
        loop_memory.append(held(lambda: loop.append(timed(loop_step, device)), device).peak)
        ours.append([timed(our_step, device) for _ in range(args.ours)])
    loop, ours = np.array(loop), np.array(ours)

    shape = ' x '.join(map(str, embeddings.shape))
    print(
        f'embeddings {shape}, {args.dtype}, {args.classes} classes, {args.queries} queries, '
        f'{args.negatives} negatives'
    )
    print(machine(device))
    print(
        f'mean loss: loop {torch.stack(values["loop"]).mean():.4f}, '
        f'ours {torch.stack(values["ours"]).mean():.4f}'
    )
    print('forward + backward, median [quartiles]')
    for column, name in enumerate(('wall', 'CPU')):
        ratios = loop[:, column, None] / ours[:, :, column]
        print(f'  loop, {name} s      {spread(loop[:, column], 2)}')
        print(f'  ours, {name} ms     {spread(1e3 * ours[:, :, column], 2)}')
        print(f'  ratio, {name}       {spread(ratios, 2)}')
    their_memory = np.median(loop_memory)
    print(f'extra memory: loop {their_memory / 1e6:.0f} MB, ours {our_memory / 1e6:.0f} MB, '
          f'share {our_memory / their_memory:.3f}')

    pairs = args.classes * args.queries * args.negatives
    speed, peak = bandwidth(device), flops(device, dtype)
    middle = np.median(ours[:, :, Seconds._fields.index(clock(device))])
    map_bytes = embeddings.numel() * embeddings.element_size()
    floors = {
        'sampled rows, each read once': pairs * args.channels * embeddings.element_size() / speed,
        'map read once, gradient written once': 2 * map_bytes / speed,
        'products (forward and gradient)': 4 * pairs * args.channels / peak,
    }
    second = 'second' if device.type == 'cuda' else 'processor second (threads add up)'
    print(
        f'machine: {speed / 1e9:.1f} GB (copy), {peak / 1e9:.0f} GFLOP (matrix product) a {second}'
    )
    for name, floor in floors.items():
        print(f'  floor, {name:37} {1e3 * floor:8.2f} ms; share {floor / middle:.2f}')


if __name__ == '__main__':
    main()
