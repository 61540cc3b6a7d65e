# Licensed under the Apache License, Version 2.0.
import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from mmseg_reco.visualization import draw_class_embeddings
from mmseg_reco.visualization.embeddings import principal_plane

PALETTE = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167)]


def _path(seed=0, records=3, classes=4, dims=6):
    return np.random.default_rng(seed).normal(size=(records, classes, dims))


@pytest.mark.parametrize('shape', [(9, 5), (4, 12), (2, 2)])
def test_plane_is_that_of_the_eigenvectors_of_the_covariance(shape):
    points = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    places, share = principal_plane(points)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    np.testing.assert_allclose(share, values[:2] / values.sum(), atol=1e-12)
    expected = (points - points.mean(0)) @ vectors[:, :2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-9)
    for axis in places.T:
        assert axis[np.abs(axis).argmax()] >= 0


@pytest.mark.parametrize('points,share', [
    (np.ones((1, 3)), [0, 0]), (np.ones((4, 3)), [0, 0]), (np.arange(4.)[:, None], [1, 0]),
    (np.outer(np.arange(4.), [3, 4]), [1, 0])])
def test_fewer_dimensions_than_the_plane(points, share):
    places, explained = principal_plane(points)
    np.testing.assert_allclose(explained, share, atol=1e-12)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(places[:, None] - places[None], axis=-1), distance, atol=1e-9)


def test_paths_lead_from_first_to_last_and_skip_what_was_absent():
    prototypes = _path()
    prototypes[0, 1] = np.nan  # seen later
    prototypes[:, 2] = np.nan  # never seen
    prototypes[1, 3] = 0  # without direction
    axes = draw_class_embeddings([1, 50, 100], prototypes, list('abcd'), PALETTE).axes[0]
    unit = prototypes / np.linalg.norm(prototypes, axis=-1, keepdims=True)
    kept = np.isfinite(unit).all(-1)
    places, share = principal_plane(unit[kept])
    index = dict(zip(map(tuple, np.argwhere(kept)), places, strict=True))
    expected = [[index[t, c] for t in range(3) if (t, c) in index] for c in (0, 1, 3)]
    assert [len(path) for path in expected] == [3, 2, 2]
    for line, path in zip(axes.lines[1::2], expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), path)
    dots = [mark.get_offsets()[0] for mark in axes.collections]
    np.testing.assert_allclose(dots[::2], [path[0] for path in expected])
    np.testing.assert_allclose(dots[1::2], [path[-1] for path in expected])
    assert [text.get_text() for text in axes.texts] == list('abd')
    assert f'{share[0]:.0%}' in axes.get_xlabel() and f'{share[1]:.0%}' in axes.get_ylabel()
    np.testing.assert_allclose(axes.lines[1].get_color(), np.array(PALETTE[0]) / 255)


def test_lengths_do_not_matter():
    prototypes = _path()
    longer = prototypes * np.random.default_rng(1).uniform(0.5, 3, (3, 4, 1))
    first, second = (draw_class_embeddings([1, 2, 3], values, list('abcd'), PALETTE).axes[0]
                     for values in (prototypes, longer))
    for one, other in zip(first.lines, second.lines, strict=True):
        np.testing.assert_allclose(one.get_xydata(), other.get_xydata(), atol=1e-9)


def test_names_cover_neither_each_other_nor_dots():
    prototypes = np.ones((2, 12, 3)) + 1e-3 * _path(0, 2, 12, 3)
    prototypes[:, :2] = (1, -1, 0), (1, 0, -1)  # set the scale: the others lie on one spot
    names = [f'a longer name {index}' for index in range(12)]
    figure = draw_class_embeddings([1, 2], prototypes, names, PALETTE * 3)
    axes = figure.axes[0]
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for text in axes.texts:
        dot = axes.transData.transform(text.xy)
        assert not any(box.contains(*dot) for box in boxes)
        # a name that was moved is tied to its dot
        assert text.arrow_patch.get_visible() == (text.xyann[1] > 0)
    assert sum(text.xyann[1] > 0 for text in axes.texts) >= 9


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 4, 'D'\)"):
        draw_class_embeddings([1, 2], _path(), list('abcd'), PALETTE)
    with pytest.raises(ValueError, match='No class was ever seen'):
        draw_class_embeddings([1, 2, 3], np.nan * _path(), list('abcd'), PALETTE)
