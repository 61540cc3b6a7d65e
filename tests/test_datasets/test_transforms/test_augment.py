# Licensed under the Apache License, Version 2.0.
# ruff: noqa: NPY002
import colorsys

import numpy as np
import pytest
from mmcv.transforms.utils import cache_random_params
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from mmseg_reco.datasets.transforms import (
    RandomColorJitter,
    RandomGaussianBlur,
    RandomRescaleCrop,
)


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)


def random_image(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def results_of(img, **maps):
    return dict(img=img, seg_fields=list(maps), **maps)


class TestRandomRescaleCrop:
    def test_scale_one_is_a_plain_crop_at_every_place(self):
        img = random_image(6, 7)
        label = np.arange(42, dtype=np.uint8).reshape(6, 7)
        places = set()
        for _ in range(300):
            out = RandomRescaleCrop((4, 5), (1, 1))(
                results_of(img, gt_seg_map=label, hidden_seg_map=label + 1))
            y, x = divmod(int(out['gt_seg_map'][0, 0]), 7)
            places.add((y, x))
            window = slice(y, y + 4), slice(x, x + 5)
            np.testing.assert_array_equal(out['img'], img[window])
            np.testing.assert_array_equal(out['gt_seg_map'], label[window])
            np.testing.assert_array_equal(out['hidden_seg_map'], label[window] + 1)
        assert places == {(y, x) for y in range(3) for x in range(3)}
        assert out['img_shape'] == (4, 5) and out['scale_factor'] == (1, 1)

    def test_padding(self):
        img, label = random_image(6, 7), np.full((6, 7), 3, np.uint8)
        out = RandomRescaleCrop((10, 9), (1, 1), ignore_index=99)(
            results_of(img, gt_seg_map=label))
        np.testing.assert_array_equal(
            out['img'], np.pad(img, [(0, 4), (0, 2), (0, 0)], mode='reflect'))
        np.testing.assert_array_equal(
            out['gt_seg_map'], np.pad(label, [(0, 4), (0, 2)], constant_values=99))

    def test_padding_far_beyond_the_image(self):
        img = random_image(6, 7)
        out = RandomRescaleCrop((40, 50), (0.5, 0.5))(
            results_of(img, gt_seg_map=np.zeros((6, 7), np.uint8)))
        small = out['img'][:3, :3]
        np.testing.assert_array_equal(
            out['img'], np.pad(small, [(0, 37), (0, 47), (0, 0)], mode='reflect'))
        assert (out['gt_seg_map'] != 255).sum() == 9

    def test_image_and_labels_stay_together(self):
        """A picture whose left half is dark and labelled 1, whose right half is bright and 2."""
        img = np.zeros((40, 60, 3), np.uint8)
        img[:, 30:] = 200
        label = np.where(img[..., 0] == 0, 1, 2).astype(np.uint8)
        for _ in range(50):
            out = RandomRescaleCrop((32, 32), (0.5, 1.5))(results_of(img, gt_seg_map=label))
            seen = out['gt_seg_map'] != 255
            wrong = (out['img'][..., 0] > 100) != (out['gt_seg_map'] == 2)
            # only the column that bilinear scaling mixes may disagree
            assert wrong[seen].reshape(-1).sum() <= 2 * 32
            assert set(np.unique(out['gt_seg_map'])) <= {1, 2, 255}

    @pytest.mark.parametrize('ratio', [0.5, 0.77, 1.23, 1.5])
    def test_labels_are_scaled_from_centre_to_centre(self, ratio):
        label = np.random.default_rng(0).integers(0, 11, (40, 60), np.uint8)
        out = RandomRescaleCrop((int(40 * ratio), int(60 * ratio)), (ratio, ratio))(
            results_of(random_image(40, 60), gt_seg_map=label))
        oracle = Image.fromarray(label).resize((int(60 * ratio), int(40 * ratio)), Image.NEAREST)
        np.testing.assert_array_equal(out['gt_seg_map'], np.asarray(oracle))

    def test_ratios_are_uniform(self):
        ratios = [
            RandomRescaleCrop(8, (0.5, 1.5))(results_of(np.zeros((200, 200, 3), np.uint8)))
            ['scale_factor'][0] for _ in range(2000)]
        counts, _ = np.histogram(ratios, bins=5, range=(0.5, 1.5))
        assert min(ratios) >= 0.5 and max(ratios) <= 1.5
        assert np.abs(counts / 2000 - 0.2).max() < 0.04

    def test_randomness_can_be_shared(self):
        transform = RandomRescaleCrop(8)
        img = random_image(40, 40)
        with cache_random_params(transform):
            first, second = transform(results_of(img)), transform(results_of(img))
        np.testing.assert_array_equal(first['img'], second['img'])

    @pytest.mark.parametrize('arguments', [
        dict(crop_size=(0, 3)), dict(crop_size=3, ratio_range=(0, 1)),
        dict(crop_size=3, ratio_range=(2, 1))])
    def test_refuses(self, arguments):
        with pytest.raises(ValueError, match='crop_size|ratio_range'):
            RandomRescaleCrop(**arguments)


NEUTRAL = dict(prob=1, brightness=(1, 1), contrast=(1, 1), saturation=(1, 1), hue=(0, 0))


def jitter(img, **changes):
    return RandomColorJitter(**{**NEUTRAL, **changes})(dict(img=img.copy()))['img']


class TestRandomColorJitter:
    @pytest.mark.parametrize(('name', 'enhancer'), [
        ('brightness', ImageEnhance.Brightness), ('contrast', ImageEnhance.Contrast),
        ('saturation', ImageEnhance.Color)])
    @pytest.mark.parametrize('factor', [0.75, 1.25, 0.0])
    def test_factors_against_pillow(self, name, enhancer, factor):
        img = random_image()
        expected = enhancer(Image.fromarray(img[..., ::-1])).enhance(factor)
        actual = jitter(img, **{name: (factor, factor)})
        difference = actual[..., ::-1].astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 2  # Pillow rounds its grey image

    @pytest.mark.parametrize('turn', [-0.25, 0.1, 0.25])
    def test_hue_against_colorsys(self, turn):
        img = random_image(5, 6)
        actual = jitter(img, hue=(turn, turn)).astype(int)
        for y, x in np.ndindex(5, 6):
            h, s, v = colorsys.rgb_to_hsv(*img[y, x, ::-1] / 255)
            expected = np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255
            assert np.abs(actual[y, x, ::-1] - expected).max() <= 1

    def test_neutral_and_grey_are_left_alone(self):
        img = random_image()
        np.testing.assert_array_equal(jitter(img), img)
        grey = np.repeat(img[..., :1], 3, axis=2)
        np.testing.assert_array_equal(jitter(grey, hue=(0.2, 0.2), saturation=(0.5, 0.5)), grey)

    def test_probability_order_and_ranges(self):
        transform = RandomColorJitter()
        draws = [transform._draw() for _ in range(3000)]
        assert abs(np.mean([bool(draw) for draw in draws]) - 0.8) < 0.03
        changes = [draw for draw in draws if draw]
        assert len({tuple(name for name, _ in draw) for draw in changes}) == 24
        for name, low, high in [('brightness', 0.75, 1.25), ('contrast', 0.75, 1.25),
                                ('saturation', 0.75, 1.25), ('hue', -0.25, 0.25)]:
            strengths = np.array([dict(draw)[name] for draw in changes])
            assert low <= strengths.min() < low + 0.02 and high - 0.02 < strengths.max() <= high
            assert abs(strengths.mean() - (low + high) / 2) < 0.02

    def test_floats_stay_floats(self):
        img = random_image().astype(np.float32)
        out = jitter(img, brightness=(0.9, 0.9))
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, img * 0.9, rtol=1e-5, atol=1e-2)

    @pytest.mark.parametrize('arguments', [
        dict(prob=1.5), dict(hue=(-0.6, 0)), dict(hue=(0, 0.6)), dict(brightness=(-1, 1)),
        dict(contrast=(2, 1))])
    def test_refuses(self, arguments):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            RandomColorJitter(**arguments)


class TestRandomGaussianBlur:
    @pytest.mark.parametrize('sigma', [0.15, 0.6, 1.15])
    def test_against_scipy(self, sigma):
        img = random_image()
        out = RandomGaussianBlur(1, (sigma, sigma))(dict(img=img.copy()))['img']
        expected = gaussian_filter(img.astype(float), (sigma, sigma, 0), mode='mirror')
        assert np.abs(out - expected).max() <= 1
        if sigma > 0.5:
            assert np.abs(out - img.astype(int)).max() > 20

    def test_probability_and_range(self):
        transform = RandomGaussianBlur()
        draws = [transform._draw() for _ in range(3000)]
        sigmas = np.array([draw for draw in draws if draw is not None])
        assert abs(len(sigmas) / 3000 - 0.5) < 0.03
        assert 0.15 <= sigmas.min() < 0.17 and 1.13 < sigmas.max() <= 1.15

    def test_refuses(self):
        with pytest.raises(ValueError, match='sigma'):
            RandomGaussianBlur(sigma=(0, 1))
