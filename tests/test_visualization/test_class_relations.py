# Licensed under the Apache License, Version 2.0.
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mmseg_reco.visualization import draw_class_relations


def _relations(count):
    vectors = np.random.default_rng(0).normal(size=(count, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def test_values_are_written_where_they_belong():
    matrix = _relations(4)
    axes = draw_class_relations(matrix, list('abcd')).axes[0]
    texts = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert len(texts) == 16
    for row, column in np.ndindex(4, 4):
        assert abs(float(texts[(column, row)]) - matrix[row, column]) <= 0.005 + 1e-9
    assert [label.get_text() for label in axes.get_xticklabels()] == list('abcd')
    assert [label.get_text() for label in axes.get_yticklabels()] == list('abcd')


def test_colours_span_minus_one_to_one_whatever_the_values():
    figure = draw_class_relations(0.1 * np.eye(3), list('abc'))
    picture = figure.axes[0].images[0]
    assert picture.get_clim() == (-1, 1)
    low, middle, high = picture.cmap([0.0, 0.5, 1.0])[:, :3]
    assert middle.min() > 0.9  # unrelated is white
    # red-green blindness leaves the blue-yellow contrast: the two ends differ in it
    assert (low[2] - low[:2].mean()) * (high[2] - high[:2].mean()) < 0


def test_absent_classes_are_grey_and_without_numbers():
    matrix = _relations(3)
    matrix[1], matrix[:, 1] = np.nan, np.nan
    figure = draw_class_relations(matrix, list('abc'))
    axes = figure.axes[0]
    assert len(axes.texts) == 4
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    for row, column in np.ndindex(3, 3):
        x, y = axes.transData.transform((column + 0.35, row + 0.35))
        red, green, blue = pixels[pixels.shape[0] - int(y), int(x), :3].astype(int)
        absent = 1 in (row, column)
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
