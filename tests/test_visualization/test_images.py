# Licensed under the Apache License, Version 2.0.
import numpy as np
import torch
from matplotlib.figure import Figure

from mmseg_reco.visualization import batch_to_rgb, bgr_to_rgb, figure_to_rgb


def test_a_figure_has_its_size_and_colour():
    picture = figure_to_rgb(Figure(figsize=(2, 1), dpi=50, facecolor=(1, 0.2, 0)))
    assert picture.shape == (50, 100, 3) and picture.dtype == np.uint8
    assert (picture == (255, 51, 0)).all()


def test_pixels_of_a_batch_are_rounded():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    pictures = batch_to_rgb(images)
    assert len(pictures) == 2 and pictures[0].dtype == np.uint8
    for image, picture in zip(images, pictures, strict=True):
        for y in range(4):
            for x in range(5):
                assert picture[y, x].tolist() == [round(255 * v) for v in image[:, y, x].tolist()]


def test_bgr_is_turned_around():
    image = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    picture = bgr_to_rgb(image)
    assert picture.shape == (2, 4, 3) and picture[1, 2].tolist() == image[:, 1, 2].tolist()[::-1]
