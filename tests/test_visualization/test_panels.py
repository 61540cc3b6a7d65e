# Licensed under the Apache License, Version 2.0.
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from mmseg_reco.visualization import color_labels, draw_panel, save_picture

NAMES = ('one', 'two', 'three')
PALETTE = [[200, 30, 30], [30, 120, 220], [255, 255, 255]]


def test_color_labels_equals_a_loop_over_pixels():
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (9, 13)).astype(np.uint8)
    picture = color_labels(labels, PALETTE)
    assert picture.dtype == np.uint8 and picture.shape == (9, 13, 3)
    for y, x in np.ndindex(labels.shape):
        if labels[y, x] == 255:
            red, green, blue = picture[y, x]
            assert red == green == blue
        else:
            assert picture[y, x].tolist() == PALETTE[labels[y, x]]
    ignored = color_labels(np.full((16, 16), 255), PALETTE)
    assert len(np.unique(ignored)) == 2  # hatched: no flat grey of a class looks like it


@pytest.mark.parametrize('value', [3, 254])
def test_a_label_without_a_colour_is_refused(value):
    with pytest.raises(ValueError, match=f'Label {value} has no colour'):
        color_labels(np.array([[0, value]], np.uint8), PALETTE)


def _cell(picture, row, column, rows, columns):
    """Middle of a cell, well inside title and legend."""
    top, bottom = 34, picture.shape[0] - 40
    height, width = (bottom - top) / rows, picture.shape[1] / columns
    y, x = int(top + (row + 0.5) * height), int((column + 0.5) * width)
    return picture[y - 10 : y + 10, x - 10 : x + 10]


def test_pictures_stand_in_their_row_and_column():
    image = np.full((60, 80, 3), (10, 200, 90), np.uint8)
    columns = {
        'image': [image, image // 2],
        'labels': [np.zeros((60, 80), np.uint8), np.ones((60, 80), np.uint8)],
    }
    picture = draw_panel(columns, NAMES, PALETTE)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (480, 3)
    assert (_cell(picture, 0, 0, 2, 2) == image[0, 0]).all()
    assert (_cell(picture, 1, 0, 2, 2) == image[0, 0] // 2).all()
    assert (_cell(picture, 0, 1, 2, 2) == PALETTE[0]).all()
    assert (_cell(picture, 1, 1, 2, 2) == PALETTE[1]).all()
    # the legend repeats every class colour under the pictures
    legend = picture[-36:].reshape(-1, 3)
    assert all((legend == colour).all(1).sum() > 50 for colour in PALETTE)


def test_a_single_labelled_pixel_is_enlarged():
    labels = np.full((96, 128), 255, np.uint8)
    labels[48, 64] = 1
    picture = draw_panel({'given labels': [labels]}, NAMES, PALETTE)
    shown = (picture[34:214] == PALETTE[1]).all(-1)  # without title and legend
    one_pixel = (240 / 128) ** 2
    assert shown.sum() > 5 * one_pixel
    y, x = np.nonzero(shown)
    assert abs(x.mean() - 120) < 3  # in the middle of its column


@pytest.mark.parametrize('columns', [{}, {'a': []}, {'a': [np.zeros((4, 4))], 'b': []}])
def test_uneven_columns_are_refused(columns):
    with pytest.raises(ValueError, match='same number of pictures'):
        draw_panel(columns, NAMES, PALETTE)


def test_pyplot_is_left_alone():
    before, parameters = plt.get_fignums(), dict(matplotlib.rcParams)
    draw_panel({'labels': [np.zeros((6, 8), np.uint8)]}, NAMES, PALETTE)
    assert plt.get_fignums() == before
    assert dict(matplotlib.rcParams) == parameters


def test_a_picture_is_written_or_named(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    save_picture(picture, tmp_path / 'new/folder/picture.png')
    assert (np.asarray(Image.open(tmp_path / 'new/folder/picture.png')) == picture).all()
    (tmp_path / 'folder.png').mkdir()
    for name in ('folder.png', 'new/folder/picture.png/picture.png', 'picture.xyz'):
        with pytest.raises(OSError, match=f'{tmp_path / name} could not be written: '):
            save_picture(picture, tmp_path / name)
