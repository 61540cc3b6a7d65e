# Licensed under the Apache License, Version 2.0.
from pathlib import Path

import numpy as np
import pytest
from oracles.partial_labels_oracle import sparsify_by_dilation
from PIL import Image

from mmseg_reco.datasets.partial_labels import image_rng, parse_level, sparsify, sparsify_levels

VOC_MASKS = Path('../shared/data/voc_masks/SegmentationClassAug')
PAPER_LEVELS = ('p0', 'p1', 'p5', 'p25')
LEVELS = (*PAPER_LEVELS, 'p60', 'p100')
PINNED = [169829370, 929831975, 118041350]


def patchy_mask(seed, height=61, width=83):
    """Five classes in irregular, disconnected patches with holes of void."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 3, 7, 20, 254, 255], size=(height // 6 + 1, width // 6 + 1))
    mask = np.kron(coarse, np.ones((6, 6))).astype(np.uint8)[:height, :width].copy()
    noise = rng.random(mask.shape) < 0.1
    mask[noise] = rng.choice([3, 255], size=noise.sum())
    return mask


@pytest.mark.parametrize('level', LEVELS)
def test_equals_repeated_dilation(level):
    for seed in range(4):
        mask = patchy_mask(seed)
        original = mask.copy()
        expected = sparsify_by_dilation(mask, int(level[1:]) / 100, image_rng(seed, 'a'))
        np.testing.assert_array_equal(sparsify(mask, level, image_rng(seed, 'a')), expected)
        np.testing.assert_array_equal(mask, original)


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (2, 2), (7, 1), (3, 40)])
def test_equals_repeated_dilation_at_the_borders(shape):
    for seed in range(20):
        mask = np.random.default_rng(seed).choice(np.uint8([0, 1, 255]), shape)
        expected = [
            sparsify_by_dilation(mask, int(level[1:]) / 100, image_rng(seed, 'a'))
            for level in LEVELS
        ]
        np.testing.assert_array_equal(
            sparsify_levels(mask, LEVELS, image_rng(seed, 'a')), expected
        )


@pytest.mark.skipif(not VOC_MASKS.is_dir(), reason=f'no VOC masks in {VOC_MASKS}')
def test_equals_repeated_dilation_on_voc():
    for path in sorted(VOC_MASKS.iterdir())[::20]:
        mask = np.array(Image.open(path))
        expected = [
            sparsify_by_dilation(mask, int(level[1:]) / 100, image_rng(2, path.stem))
            for level in PAPER_LEVELS
        ]
        np.testing.assert_array_equal(
            sparsify_levels(mask, PAPER_LEVELS, image_rng(2, path.stem)), expected
        )


def test_one_pixel_per_class_at_p0():
    mask = patchy_mask(0)
    sparse = sparsify(mask, 'p0', image_rng(0, 'a'))
    labels, counts = np.unique(sparse[sparse != 255], return_counts=True)
    assert labels.tolist() == [0, 3, 7, 20, 254] and (counts == 1).all()
    assert (sparse == mask)[sparse != 255].all()


def test_lower_level_lies_inside_a_higher_one():
    mask = patchy_mask(1)
    given = [sparsify(mask, level, image_rng(0, 'a')) != 255 for level in LEVELS]
    for lower, higher in zip(given, given[1:], strict=False):
        assert lower.sum() < higher.sum() and not (lower & ~higher).any()


@pytest.mark.parametrize('ignore_index', [0, 7, 255])
def test_every_label_of_a_mask(ignore_index):
    mask = np.arange(256).repeat(4).reshape(32, 32).astype(np.uint8)
    sparse = sparsify(mask, 'p0', image_rng(0, 'a'), ignore_index)
    expected = np.ones(256)
    expected[ignore_index] = 1024 - 255
    np.testing.assert_array_equal(np.bincount(sparse.ravel()), expected)


def test_other_ignore_index():
    mask = np.where(patchy_mask(2) == 255, 0, 5).astype(np.uint8)
    sparse = sparsify(mask, 'p0', image_rng(0, 'a'), ignore_index=0)
    assert np.unique(sparse, return_counts=True)[1].tolist() == [mask.size - 1, 1]
    assert sparse.max() == 5


def test_nothing_but_void():
    mask = np.full((4, 5), 255, np.uint8)
    np.testing.assert_array_equal(sparsify(mask, 'p25', image_rng(0, 'a')), mask)


def test_seed_pixel_is_uniform():
    mask = np.array([[1, 255, 1], [2, 1, 1]], np.uint8)
    drawn = np.zeros(mask.shape)
    for image in range(4000):
        drawn += sparsify(mask, 'p0', image_rng(0, f'image {image}')) == 1
    # each of the four pixels: 1000 expected, standard deviation 27
    assert drawn[mask != 1].sum() == 0
    assert (abs(drawn[mask == 1] - 1000) < 5 * 27.4).all()


def test_generator_is_the_same_everywhere():
    # written down once: a change would silently change everybody's partial labels
    assert image_rng(0, '2007_000032').integers(10**9, size=3).tolist() == PINNED
    assert image_rng(1, '2007_000032').integers(10**9) != PINNED[0]
    assert image_rng(0, '2007_000033').integers(10**9) != PINNED[0]


@pytest.mark.parametrize('level', ['p', 'p101', 'p-1', 'p0.5', '5', 'P5', 'p5 ', ''])
def test_unknown_level(level):
    with pytest.raises(ValueError, match='p<percent>'):
        parse_level(level)


@pytest.mark.parametrize('shape, dtype', [((3, 4, 3), np.uint8), ((3, 4), np.int64)])
def test_refuses_what_is_no_index_mask(shape, dtype):
    with pytest.raises(ValueError, match=r'shape \(H, W\) and dtype uint8'):
        sparsify(np.zeros(shape, dtype), 'p0', image_rng(0, 'a'))
