# Licensed under the Apache License, Version 2.0.
import numpy as np

from mmseg_reco.visualization import draw_matched_regions

NAMES, PALETTE = ('sky', 'road'), [[30, 120, 220], [200, 30, 30]]


def case(num=2):
    """Sky above road; the student sees half of the sky and all of the road."""
    sky, half = np.zeros((2, 12, 16), np.float32)
    sky[:6], half[:6, :8] = 1, 1
    return dict(
        images=[np.full((60, 80, 3), 128, np.uint8)] * num,
        teacher_masks=[np.stack([sky, 1 - sky])] * num,
        student_masks=[np.stack([half, 1 - sky])] * num,
        labels=[np.array([0, 1])] * num,
        overlap=[np.array([0.67, 1.0])] * num,
        class_names=NAMES, palette=PALETTE)


def share_of_colour(picture, colour):
    """Share of pixels that are nearer to a colour, faded as drawn, than 12 in every channel."""
    faded = 0.75 * np.array(colour) + 0.25 * (255 - (255 - 128) // 3)
    return (np.abs(picture.astype(float) - faded) < 12).all(-1).mean()


def test_regions_have_the_colour_of_their_class_where_they_are():
    picture = draw_matched_regions(**case())
    assert picture.dtype == np.uint8 and picture.shape[1] == 960
    thirds = np.split(picture[34:], 3, axis=1)
    for third, sky, road in zip(thirds, (0, 0.5, 0.25), (0, 0.5, 0.5), strict=True):
        assert abs(share_of_colour(third, PALETTE[0]) - sky) < 0.06
        assert abs(share_of_colour(third, PALETTE[1]) - road) < 0.06
    top, bottom = np.split(thirds[1][:len(thirds[1]) // 2], 2)
    assert share_of_colour(top, PALETTE[0]) > 0.7 and share_of_colour(bottom, PALETTE[1]) > 0.7


def test_an_image_without_regions_is_drawn_bare():
    empty = case(1)
    empty.update(teacher_masks=[np.zeros((0, 12, 16))], student_masks=[np.zeros((0, 12, 16))],
                 labels=[np.zeros(0, np.int64)], overlap=[np.zeros(0)])
    picture = draw_matched_regions(**empty)
    assert share_of_colour(picture, PALETTE[0]) == share_of_colour(picture, PALETTE[1]) == 0
