# Licensed under the Apache License, Version 2.0.
import hashlib
import os.path as osp

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_reco.datasets.demo_scenes import (
    CLASSES,
    HEIGHT,
    PALETTE,
    WIDTH,
    DemoSceneDataset,
    prepare,
    render_scene,
)

# Severe protanopia and deuteranopia, linear RGB (Machado, Oliveira, Fernandes 2009).
_DEFICIENCIES = dict(
    none=np.eye(3),
    protanopia=[
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    deuteranopia=[
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
)


@pytest.fixture(scope='module')
def scenes():
    return [render_scene(0, index) for index in range(60)]


def test_a_scene_depends_on_seed_and_index_only(scenes):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    image, label = render_scene(0, 5)
    np.testing.assert_array_equal(image, scenes[5][0])
    np.testing.assert_array_equal(label, scenes[5][1])
    assert not np.array_equal(image, scenes[6][0])
    assert not np.array_equal(image, render_scene(1, 5)[0])
    # the global stream is untouched
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_scenes_are_the_same_on_every_machine(scenes):
    digest = hashlib.sha256(b''.join(part.tobytes() for scene in scenes for part in scene))
    assert digest.hexdigest() == 'dcb2a785822c9d40a319a167b56495444798c8e8b849bb5db913484a6f699930'


def test_every_class_is_met_often_and_shapes_are_right(scenes):
    labels = np.stack([label for _, label in scenes])
    assert labels.shape == (60, HEIGHT, WIDTH) and labels.dtype == np.uint8
    assert all(i.shape == (HEIGHT, WIDTH, 3) and i.dtype == np.uint8 for i, _ in scenes)
    assert labels.max() < len(CLASSES)
    met = np.array([(labels == c).any((1, 2)).mean() for c in range(len(CLASSES))])
    assert (met > 0.3).all(), dict(zip(CLASSES, met, strict=True))


def test_colour_alone_does_not_solve_it(scenes):
    """The best classifier of single colours (512 bins, full labels) stays far from a solution."""
    count = len(CLASSES)

    def bins(part):
        images = np.stack([image for image, _ in part]).astype(int) // 32
        return (images @ [64, 8, 1]).ravel(), np.stack([label for _, label in part]).ravel()

    (train_bin, train_label), (test_bin, test_label) = bins(scenes[:40]), bins(scenes[40:])
    histogram = np.bincount(train_bin * count + train_label, minlength=512 * count)
    prior = np.bincount(train_label, minlength=count)
    prediction = (histogram.reshape(512, count) / prior).argmax(1)[test_bin]
    confusion = np.bincount(test_label * count + prediction, minlength=count**2)
    confusion = confusion.reshape(count, count)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    iou = np.diag(confusion) / union
    assert iou.mean() < 0.4, dict(zip(CLASSES, iou.round(2), strict=True))


def test_prepare_writes_an_mmseg_folder_that_the_dataset_reads(tmp_path):
    prepare(str(tmp_path), num_train=3, num_val=2, num_labeled=1, seed=4)
    assert (tmp_path / 'labeled.txt').read_text().split() == ['0000']
    assert (tmp_path / 'unlabeled.txt').read_text().split() == ['0001', '0002']
    for split, first, number in (('train', 0, 3), ('val', 3, 2)):
        dataset = DATASETS.build(
            dict(
                type='DemoSceneDataset',
                data_root=str(tmp_path),
                data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            )
        )
        assert isinstance(dataset, DemoSceneDataset)
        assert dataset.metainfo['classes'] == CLASSES
        assert len(dataset) == number
        for index in range(number):
            image, label = render_scene(4, first + index)
            results = dataset[index]
            np.testing.assert_array_equal(results['img'][..., ::-1], image)  # mmcv reads BGR
            np.testing.assert_array_equal(results['gt_seg_map'], label)
    with Image.open(osp.join(tmp_path, 'labels', 'val', '0003.png')) as mask:
        assert mask.mode == 'P'
        assert mask.getpalette()[: 3 * len(CLASSES)] == sum(PALETTE, [])


@pytest.mark.parametrize('deficiency', _DEFICIENCIES)
def test_palette_is_told_apart_with_any_colour_vision(deficiency):
    srgb = np.array(PALETTE) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(_DEFICIENCIES[deficiency]).T, 0, 1)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = seen @ to_xyz.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(len(lab))
    first, second = np.unravel_index(distance.argmin(), distance.shape)
    # ~2 is a just noticeable difference
    assert distance.min() > 15, (CLASSES[first], CLASSES[second], distance.min())
