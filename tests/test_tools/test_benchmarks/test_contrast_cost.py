# Licensed under the Apache License, Version 2.0.
import math

import numpy as np
import pytest
import torch
from PIL import Image

CPU = torch.device('cpu')


@pytest.fixture
def cost(load_benchmark):
    return load_benchmark('contrast_cost')


def dense_by_pairs(embeddings, labels, temperature):
    """Dense pixel contrast pair by pair."""
    vectors = embeddings.permute(0, 2, 3, 1).reshape(-1, embeddings.size(1))
    vectors = [vector / vector.norm() for vector in vectors]
    labels = labels.flatten().tolist()
    losses = []
    for i, vector in enumerate(vectors):
        others = [k for k in range(len(vectors)) if k != i]
        logits = {k: (vector @ vectors[k]) / temperature for k in others}
        total = sum(logit.exp() for logit in logits.values())
        positives = [k for k in others if labels[k] == labels[i]]
        if positives:
            losses.append(sum((total / logits[k].exp()).log() for k in positives) / len(positives))
    return sum(losses) / len(losses)


def test_dense_contrast_equals_the_loop_over_pairs(cost):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    embeddings.requires_grad_()
    labels = torch.randint(3, (2, 3, 4), generator=generator)
    labels[0, 0, 0] = 20  # a pixel without any of its class
    loss = cost.dense_contrast(embeddings, labels, 0.3)
    expected = dense_by_pairs(embeddings, labels, 0.3)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, embeddings)[0] for value in (loss, expected)))


def test_memory_grows_with_pixels_for_regions_and_with_their_square_for_dense_contrast(cost):
    torch.manual_seed(0)
    growth = {
        name: cost.peak_memory(cost.MAKERS[name](64, CPU), CPU)
        / cost.peak_memory(cost.MAKERS[name](32, CPU), CPU)
        for name in (cost.DENSE, cost.REGIONS)
    }
    assert 12 < growth[cost.DENSE] <= 16
    assert 3.5 < growth[cost.REGIONS] < 4.1


def test_slope_is_the_exponent_of_a_power_law(cost):
    sides = np.array([8, 12, 32, 50])
    for exponent in (0, 1, 2, 1.37):
        assert cost.fit_slope(sides, 5e-3 * (sides**2.)**exponent) == pytest.approx(exponent)
    # of two points, the slope between them
    assert cost.fit_slope([10, 20], [3, 7]) == pytest.approx(math.log(7 / 3) / math.log(4))


@pytest.fixture
def figures(cost):
    """Made-up figures: memory a power law; time one with another exponent in each round."""
    sides = dict.fromkeys((cost.DENSE, cost.RECO, cost.REGIONS), (16, 32, 64, 128))
    sides[cost.DENSE] = (16, 32, 64)
    powers = {cost.DENSE: 2, cost.RECO: 0, cost.REGIONS: 1}
    memory = {name: {s: 2**20 * (s**2 // 256)**powers[name] for s in sides[name]} for name in sides}
    seconds = {
        name: {s: [1e-3 * (s**2 / 256)**(powers[name] + e) for e in (-0.1, 0.02, 0.3)]
               for s in sides[name]}
        for name in sides
    }
    for name in sides:  # what calls cost on small maps
        memory[name][16] += 2**22
        seconds[name][16] = [value + 1 for value in seconds[name][16]]
    return memory, seconds


def rows(markdown):
    lines = [line.strip('| ').split(' | ') for line in markdown.splitlines()]
    assert len({line.count('|') for line in markdown.splitlines()}) == 1
    return lines[2:]


def test_table(cost, figures):
    lines = rows(cost.table(*figures))
    assert [line[:2] for line in lines] == [
        ['16²', '256'], ['32²', '1024'], ['64²', '4096'], ['128²', '16384']]
    assert all(len(line) == 8 for line in lines)
    assert lines[3][2:4] == ['–', '–']
    low, middle, high = (4**(2 + e) for e in (-0.1, 0.02, 0.3))
    assert lines[1][2:4] == [
        f'{middle:.1f} [{(low + middle) / 2:.1f}, {(middle + high) / 2:.1f}]', '16.0']
    assert [line[7] for line in lines] == ['5.0', '4.0', '16.0', '64.0']


def test_slopes_leave_small_maps_out(cost, figures):
    assert rows(cost.slope_table(*figures, fit_from=32)) == [
        [cost.DENSE, '2.02 [1.90, 2.30]', '2.00', '32² to 64²'],
        [cost.RECO, '0.02 [-0.10, 0.30]', '0.00', '32² to 128²'],
        [cost.REGIONS, '1.02 [0.90, 1.30]', '1.00', '32² to 128²'],
    ]
    # no line through one point
    assert len(rows(cost.slope_table(*figures, fit_from=64))) == 2


def test_figure_shows_the_figures(cost, figures):
    memory, seconds = figures
    figure = cost.draw(memory, seconds, 'note')
    time, space = figure.axes
    for axes in (time, space):
        assert (axes.get_xscale(), axes.get_yscale()) == ('log', 'log')
        assert [text.get_text() for text in axes.texts] == ['slope 2', 'slope 1']
    for name in memory:
        line = next(line for line in time.lines if line.get_label() == name)
        np.testing.assert_array_equal(line.get_xdata(), np.array(list(memory[name]))**2)
        np.testing.assert_allclose(
            line.get_ydata(), [1e3 * np.median(v) for v in seconds[name].values()])
        line = next(line for line in space.lines if line.get_label() == name)
        np.testing.assert_allclose(line.get_ydata(), np.array(list(memory[name].values())) / 2**20)


def test_the_whole_on_small_maps(cost, run_benchmark, tmp_path):
    picture = tmp_path / 'cost.png'
    # dense contrast would take 16 times the memory on the second map
    printed = run_benchmark('contrast_cost', '--sides', 12, 24, '--rounds', 1, '--limit', 0.001,
                            '--fit-from', 12, '--out', picture)
    head, costs, slopes, written = printed.strip().split('\n\n')
    assert 'median and quartiles of 1 rounds' in head
    first, second = rows(costs)
    assert first[:2] == ['12²', '144'] and second[2:4] == ['–', '–']
    values = [float(cell.split()[0]) for cell in first[2:] + second[4:]]
    assert len(values) == 10 and min(values) > 0
    assert [line[0] for line in rows(slopes)] == [cost.RECO, cost.REGIONS]
    assert written == f'Written: {picture}'
    with Image.open(picture) as image:
        assert min(image.size) > 300
