# Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest

from mmseg_reco.visualization import draw_pseudo_label_quality


def _quality(records, classes):
    values = np.random.default_rng(0).random((3, records, classes))
    return dict(zip(('precision', 'coverage', 'recall'), values, strict=True))


@pytest.mark.parametrize('count', [1, 5, 11])
def test_every_class_has_a_panel_with_its_three_curves(count):
    quality, names = _quality(4, count), [f'class {index}' for index in range(count)]
    quality['precision'][0] = np.nan
    figure = draw_pseudo_label_quality([1, 10, 20, 30], quality, names, 'on 5 images')
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == names
    for index, axes in enumerate(panels):
        assert [line.get_label() for line in axes.lines] == list(quality)
        for line in axes.lines:
            np.testing.assert_array_equal(line.get_xdata(), [1, 10, 20, 30])
            np.testing.assert_array_equal(
                line.get_ydata(), quality[line.get_label()][:, index])
        # told apart without colours
        assert len({line.get_linestyle() for line in axes.lines}) == 3
    figure.canvas.draw()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(quality)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'precision of 4 iterations and 3 classes.*\(4, 2\)'):
        draw_pseudo_label_quality(range(4), _quality(4, 2), list('abc'), '')
