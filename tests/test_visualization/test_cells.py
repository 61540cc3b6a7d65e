# Licensed under the Apache License, Version 2.0.
import numpy as np

from mmseg_reco.visualization import Dots, PseudoLabels, draw_panel

NAMES = ('one', 'two', 'three')
PALETTE = [[200, 30, 30], [30, 120, 220], [255, 220, 0]]
TOP = 34  # of the first row under a title of one line


def panel(*cells, **kwargs):
    """A panel of one row, one inch and a half a column."""
    return draw_panel({f'{i}': [cell] for i, cell in enumerate(cells)}, NAMES, PALETTE,
                      column_width=1.5, **kwargs)


def cell_of(picture, column=0, height=75):
    return picture[TOP + 4: TOP + height - 4, 150 * column + 4: 150 * column + 146]


def share(pixels, colour):
    return (pixels == colour).all(-1).mean()


def test_pseudo_labels_are_hatched_exactly_where_they_are_unsure():
    labels = np.repeat([[0, 1]], 20, 0).repeat(20, 1)
    confidence = np.where(np.arange(20)[:, None] < 10, 0.9, 0.69) * np.ones((1, 40))
    shown = cell_of(panel(PseudoLabels(labels, confidence, 0.7)))
    sure, unsure = shown[:30], shown[38:]
    assert (sure[:, :66] == PALETTE[0]).all() and (sure[:, 76:] == PALETTE[1]).all()
    for part, colour in ((unsure[:, :66], PALETTE[0]), (unsure[:, 76:], PALETTE[1])):
        assert 0.1 < share(part, 0) < 0.15 and 0.22 < share(part, 255) < 0.28
        assert share(part, 0) + share(part, 255) + share(part, colour) == 1


def test_unlabelled_pixels_are_shaded_but_not_called_unsure():
    shown = cell_of(panel(PseudoLabels(np.full((20, 40), 255), np.zeros((20, 40)), 0.7)))
    assert share(shown, 176) + share(shown, 208) == 1


def test_maps_of_numbers_run_from_black_to_white():
    values = np.array([[0, 0.4, 1, np.nan]]).repeat(20, 0).repeat(10, 1)
    shown = cell_of(panel(values))
    for column, grey in ((10, 0), (50, 102), (90, 255)):
        assert (shown[:, column: column + 10] == grey).all()
    assert share(shown[:, 115:], 176) + share(shown[:, 115:], 208) == 1


def test_dots_stand_on_their_pixels_in_the_colour_of_their_class():
    image = np.zeros((20, 40, 3), np.uint8)
    image[..., 1] = 240
    dots = Dots(image, np.array([[5, 10], [15, 30]]), np.array([0, 2]), star=1)
    shown = cell_of(panel(dots))
    assert (shown[0, 0] == 127 + 40).all()  # faded to grey
    for (y, x), colour, at_least in (((5, 10), PALETTE[0], 3), ((15, 30), PALETTE[2], 40)):
        rows, columns = np.nonzero((shown == colour).all(-1))
        assert len(rows) >= at_least  # the star is the larger one
        assert abs(rows.mean() + 4 - 3.75 * (y + 0.5)) < 2
        assert abs(columns.mean() + 4 - 3.75 * (x + 0.5)) < 2


def test_every_small_region_of_a_sparse_map_is_enlarged_and_no_large_one():
    labels = np.full((100, 200), 255)
    labels[25, 20] = labels[80, 150] = 1  # two of one class
    labels[50:53, 100:102] = 2
    labels[60:80, 20:60] = 0
    shown = cell_of(panel(labels))
    for place, label in (((25, 20), 1), ((80, 150), 1), ((51, 101), 2)):
        y, x = (0.75 * np.array(place) - 4).astype(int)
        around = shown[y - 6: y + 7, x - 6: x + 7]
        assert 15 < (around == PALETTE[label]).all(-1).sum() < 80
        assert (around.max(-1) < 60).any()  # its black edge
    assert abs((shown == PALETTE[0]).all(-1).sum() - 800 * 0.75**2) < 40


def test_speckles_of_a_dense_map_stay_as_they_are_beside_any_padding():
    labels = np.full((100, 200), 255)
    labels[:40, :80] = 0
    labels[20, 20] = 1  # 16 % labelled, but within its border all
    shown = cell_of(panel(labels))
    assert (shown == PALETTE[1]).all(-1).sum() <= 4


def test_row_labels_and_notes_make_room_for_themselves():
    cell = np.zeros((20, 40), np.uint8)
    plain = panel(cell)
    labelled = panel(cell, row_labels=['image.png'], notes={'only A': (1, 200, 255)})
    assert labelled.shape[0] == plain.shape[0] + 24 + 26
    assert (labelled[TOP: TOP + 24].min(-1) < 100).any()  # text
    assert (labelled[TOP + 28: TOP + 95, 4:146] == PALETTE[0]).all()
    assert ((labelled[-26:] == (1, 200, 255)).all(-1)).sum() > 50


def test_of_many_classes_the_legend_names_those_that_are_shown():
    palette = [[index, 255 - index, 7] for index in range(60)]
    names = [f'class {index}' for index in range(60)]
    picture = draw_panel({'labels': [np.array([[3, 41]]).repeat(9, 0)]}, names, palette)
    legend = picture[-30:].reshape(-1, 3)
    seen = [index for index, colour in enumerate(palette) if (legend == colour).all(1).sum() > 50]
    assert seen == [3, 41]
