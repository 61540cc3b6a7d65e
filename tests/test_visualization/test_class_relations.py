# Licensed under the Apache License, Version 2.0.
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet
from scipy.spatial.distance import squareform

from mmseg_reco.visualization import draw_class_relations, draw_relation_history
from mmseg_reco.visualization.class_relations import class_tree, mean_relation


def _relations(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def _absent(matrix, *classes):
    matrix = matrix.copy()
    matrix[list(classes)], matrix[:, list(classes)] = np.nan, np.nan
    return matrix


def _labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_values_are_written_where_they_belong():
    matrix = _relations(4)
    axes = draw_class_relations(matrix, list('abcd')).axes[0]
    texts = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert len(texts) == 16
    names = _labels(axes.xaxis)
    assert names == _labels(axes.yaxis) and sorted(names) == list('abcd')
    for row, column in np.ndindex(4, 4):
        value = matrix['abcd'.index(names[row]), 'abcd'.index(names[column])]
        assert abs(float(texts[(column, row)]) - value) <= 0.005 + 1e-9
        assert axes.images[0].get_array()[row, column] == value


def test_colours_span_minus_one_to_one_whatever_the_values():
    figure = draw_class_relations(0.1 * np.eye(3), list('abc'))
    picture = figure.axes[0].images[0]
    assert picture.get_clim() == (-1, 1)
    low, middle, high = picture.cmap([0.0, 0.5, 1.0])[:, :3]
    assert middle.min() > 0.9  # unrelated is white
    # red-green blindness leaves the blue-yellow contrast: the two ends differ in it
    assert (low[2] - low[:2].mean()) * (high[2] - high[:2].mean()) < 0


def test_absent_classes_are_grey_and_without_numbers():
    figure = draw_class_relations(_absent(_relations(3), 1), list('abc'))
    axes = figure.axes[0]
    assert len(axes.texts) == 4
    assert _labels(axes.yaxis)[-1] == 'b'
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    for row, column in np.ndindex(3, 3):
        x, y = axes.transData.transform((column + 0.35, row + 0.35))
        red, green, blue = pixels[pixels.shape[0] - int(y), int(x), :3].astype(int)
        absent = 2 in (row, column)
        assert (red == green == blue == 191) == absent, (row, column)


def test_many_classes_are_not_annotated():
    assert len(draw_class_relations(_relations(12), list('abcdefghijkl')).axes[0].texts) == 144
    assert not draw_class_relations(_relations(13), list('abcdefghijklm')).axes[0].texts


@pytest.mark.parametrize('shape', [(3, 2), (2, 2), (3,)])
def test_a_matrix_that_does_not_match_the_names_is_refused(shape):
    with pytest.raises(ValueError, match=r'shape \(3, 3\)'):
        draw_class_relations(np.zeros(shape), list('abc'))


def test_pyplot_is_left_alone_and_the_figure_saves(tmp_path):
    before = plt.get_fignums()
    draw_class_relations(_relations(3), list('abc')).savefig(tmp_path / 'relations.png')
    assert plt.get_fignums() == before
    assert (tmp_path / 'relations.png').stat().st_size > 1000


def _join_plainly(matrix):
    """Distance at which two classes join, by clustering with average linkage in a plain loop."""
    clusters = [(index,) for index in range(len(matrix))]
    joined = np.zeros(matrix.shape)

    def distance(pair):
        return np.mean([1 - matrix[i, j] for i in pair[0] for j in pair[1]])

    while len(clusters) > 1:
        first, second = min(itertools.combinations(clusters, 2), key=distance)
        for i, j in itertools.product(first, second):
            joined[i, j] = joined[j, i] = distance((first, second))
        clusters = [c for c in clusters if c not in (first, second)] + [first + second]
    return joined


@pytest.mark.parametrize('seed', range(3))
def test_the_tree_joins_classes_as_a_plain_loop_does(seed):
    matrix = _relations(7, seed)
    order, tree = class_tree(matrix)
    np.testing.assert_allclose(squareform(cophenet(tree)), _join_plainly(matrix), atol=1e-9)
    assert sorted(order) == list(range(7))
    # the closest two stand side by side
    pair = np.unravel_index(np.argmax(matrix - 3 * np.eye(7)), matrix.shape)
    assert abs(int(np.flatnonzero(order == pair[0])[0] - np.flatnonzero(order == pair[1])[0])) == 1


def test_the_tree_leaves_out_classes_never_seen():
    matrix = _relations(6)
    order, tree = class_tree(_absent(matrix, 1, 4))
    assert list(order[-2:]) == [1, 4]
    kept = [0, 2, 3, 5]
    np.testing.assert_allclose(
        squareform(cophenet(tree)), _join_plainly(matrix[np.ix_(kept, kept)]), atol=1e-9)


def test_classes_that_never_met_count_as_unrelated():
    matrix = np.array([[1, np.nan, 0.5], [np.nan, 1, 0.2], [0.5, 0.2, 1]])
    expected = np.where(np.isnan(matrix), 0, matrix)
    np.testing.assert_allclose(
        squareform(cophenet(class_tree(matrix)[1])), _join_plainly(expected), atol=1e-9)


@pytest.mark.parametrize('absent', [(0, 1, 2), (0, 2)])
def test_fewer_than_two_classes_have_no_tree(absent):
    matrix = _absent(_relations(3), *absent)
    assert class_tree(matrix)[1] is None
    figure = draw_class_relations(matrix, list('abc'))
    assert len(figure.axes) == 2  # the matrix and its colours
    figure.canvas.draw()


def test_leaves_stand_beside_their_rows():
    matrix = _absent(_relations(6), 2)
    figure = draw_class_relations(matrix, list('abcdef'))
    heat, tree = figure.axes[:2]
    names = [_labels(heat.yaxis)[row] for row in range(5)]
    for line in tree.lines:
        x, y = line.get_xdata(), line.get_ydata()
        if x[0] == x[-1] == 0:  # joins two leaves
            pair = ['abcdef'.index(names[round(row)]) for row in (y[0], y[-1])]
            assert x[1] == pytest.approx(1 - matrix[pair[0], pair[1]])
            np.testing.assert_allclose(y, np.round(y))
    assert len(tree.lines) == 4
    assert tree.get_ylim() == heat.get_ylim()


def test_mean_relation_is_that_of_a_plain_loop():
    matrix = _absent(_relations(5), 3)
    matrix[0, 1] = matrix[1, 0] = np.nan
    values = [matrix[i, j] for i in range(5) for j in range(i) if np.isfinite(matrix[i, j])]
    assert mean_relation(matrix) == pytest.approx(np.mean(values))
    assert np.isnan(mean_relation(np.full((2, 2), np.nan)))


def test_history_draws_mean_range_and_the_closest_pairs():
    matrices = np.stack([_absent(_relations(5, 0), 4), _relations(5, 1), _relations(5, 2)])
    figure = draw_relation_history([1, 10, 20], matrices, list('abcde'))
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        'iteration 1', 'iteration 10', 'iteration 20']
    names = _labels(figure.axes[0].yaxis)
    for axes, matrix in zip(figure.axes, matrices, strict=False):
        order = ['abcde'.index(name) for name in names]
        np.testing.assert_array_equal(
            axes.images[0].get_array().filled(np.nan), matrix[np.ix_(order, order)])
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[-1].lines}
    np.testing.assert_allclose(
        lines.pop('mean of all pairs'), [mean_relation(matrix) for matrix in matrices])
    ranked = sorted((matrices[-1, i, j], i, j) for i in range(5) for j in range(i + 1, 5))[:-4:-1]
    assert list(lines) == [f'{"abcde"[i]} – {"abcde"[j]}' for _, i, j in ranked]
    for values, (_, i, j) in zip(lines.values(), ranked, strict=True):
        np.testing.assert_array_equal(values, matrices[:, i, j])
    figure.canvas.draw()


def test_a_long_history_shows_four_graphs_from_first_to_last():
    figure = draw_relation_history(
        range(1, 23), np.stack([_relations(3, seed) for seed in range(22)]), list('abc'))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 4 and titles[0] == 'iteration 1' and titles[-1] == 'iteration 22'


def test_a_first_graph_in_which_no_classes_met_is_not_shown():
    matrices = np.stack([_relations(3, seed) for seed in range(3)])
    matrices[0] = np.where(np.arange(9).reshape(3, 3) == 4, 1, np.nan)
    figure = draw_relation_history([1, 10, 20], matrices, list('abc'))
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        'iteration 10', 'iteration 20']
    assert np.isnan(figure.axes[-1].lines[0].get_ydata()[0])


def test_a_history_of_classes_never_seen_can_be_drawn():
    figure = draw_relation_history([1, 2], np.full((2, 3, 3), np.nan), list('abc'))
    assert len(figure.axes[-1].lines) == 1  # the mean, of nothing
    figure.canvas.draw()


@pytest.mark.parametrize('iterations,shape', [([1], (1, 3, 3)), ([1, 2], (3, 3, 3)),
                                              ([1, 2], (2, 2, 2))])
def test_a_history_that_does_not_fit_is_refused(iterations, shape):
    with pytest.raises(ValueError, match='history needs two graphs'):
        draw_relation_history(iterations, np.zeros(shape), list('abc'))
