# Licensed under the Apache License, Version 2.0.
"""The loop that the ReCo loss is timed against computes the same thing; the benchmarks run."""
import re

import numpy as np
import pytest
import torch
from oracles import reco_oracle as oracle


def test_loop_has_the_exact_mean(load_benchmark):
    """Against the closed form over all draws, within 4 standard errors; a class is absent."""
    benchmark = load_benchmark('reco_loss')
    torch.manual_seed(0)
    embeddings, labels, probs = benchmark.make_batch(
        2, 5, 6, 5, torch.device('cpu'), torch.float32)
    labels[labels == 3] = 255
    scene = oracle.read_scene(embeddings.detach(), labels, probs, 0.97)
    exact = float(oracle.mean_loss(scene, 16, 0.5).detach())
    rng = np.random.default_rng(0)
    draws = torch.stack([benchmark.loop_reco_loss(embeddings.detach(), labels, probs, 8, 16, rng)
                         for _ in range(100)])
    assert abs(float(draws.mean()) - exact) < 4 * float(draws.std()) / 10


def test_benchmark_of_the_loss(run_benchmark):
    printed = run_benchmark(
        'reco_loss', '--images', 2, '--channels', 8, '--side', 8, '--classes', 3, '--queries', 8,
        '--negatives', 8, '--threads', 1, '--rounds', 2, '--ours', 2)
    assert float(re.search(r'ratio, wall +([\d.]+)', printed)[1]) > 0
    loop, ours = re.search(r'mean loss: loop ([\d.]+), ours ([\d.]+)', printed).groups()
    assert float(loop) == pytest.approx(float(ours), abs=0.3)


def test_benchmark_of_the_scale(load_benchmark, run_benchmark, tmp_path):
    module = load_benchmark('reco_scale')
    small = module.Setting(side=8, classes=2, queries=4, negatives=4, images=2, channels=8)
    printed = run_benchmark(
        'reco_scale', '--threads', 1, '--rounds', 1, '--out', tmp_path / 'plot.png',
        SWEEPS={name: [small, small._replace(side=9, classes=3, queries=5)]
                for name in module.SWEEPS})
    rows = [line.split() for line in printed.splitlines()]
    assert [int(row[0]) for row in rows if row[0].isdigit()] == [2, 3, 64, 81, 16, 20]
    assert (tmp_path / 'plot.png').stat().st_size > 10_000
