# Licensed under the Apache License, Version 2.0.
"""The paper's augmentation of labelled images, on NumPy images in the loader.

Parameters: ReCo, published implementation. Randomness comes from NumPy's global generator, which
mmengine seeds in every worker.
"""
# ruff: noqa: NPY002

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS

from mmseg_reco.utils import check_probability, check_range


def _store_image(results: dict, img: np.ndarray) -> None:
    """Put an image computed in floats on [0, 255] back in the dtype that the image came in."""
    dtype = results['img'].dtype
    if np.issubdtype(dtype, np.integer):
        img = np.rint(img)
    results['img'] = img.astype(dtype)


@TRANSFORMS.register_module()
class RandomRescaleCrop(BaseTransform):
    """Rescale by a random ratio, pad to the crop where needed, crop at random.

    The ratio applies to the image's own size and is drawn uniformly. The image is scaled
    bilinearly and padded, right and bottom, by reflection; label maps (all of
    ``results['seg_fields']``) are scaled by nearest neighbour, from pixel centre to pixel centre,
    and padded with ``ignore_index``.
    With ``ratio_range=(1, 1)`` this is the view of unlabelled images: a crop at scale 1.

    Required keys: ``img``, ``seg_fields`` and the maps it names.

    Modified keys: ``img``, ``img_shape``, the label maps.

    Added keys: ``scale_factor``, ``pad_shape``.

    Args:
        crop_size (int | tuple[int, int]): (height, width) of the result; an int for a square.
        ratio_range (tuple[float, float]): Range of the ratio, above 0.
        ignore_index (int): Label of the padding.

    Raises:
        ValueError: If the crop or the range is not positive.
    """

    def __init__(self,
                 crop_size: int | tuple[int, int],
                 ratio_range: tuple[float, float] = (0.5, 1.5),
                 ignore_index: int = 255) -> None:
        crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ValueError(f'crop_size must be (height, width), both >= 1, but is {crop_size}.')
        self.crop_size = crop_size
        check_range('ratio_range', ratio_range, positive=True)
        self.ratio_range = tuple(ratio_range)
        self.ignore_index = ignore_index

    @cache_randomness
    def _draw(self) -> tuple[float, float, float]:
        """A ratio, and the crop's position as shares of the room there is for it."""
        return np.random.uniform(*self.ratio_range), np.random.rand(), np.random.rand()

    def transform(self, results: dict) -> dict:
        """Rescale, pad and crop one image with its label maps."""
        ratio, share_y, share_x = self._draw()
        height, width = results['img'].shape[:2]
        scaled = max(int(height * ratio), 1), max(int(width * ratio), 1)
        top, left = (int(share * (max(have - want, 0) + 1)) for share, have, want in
                     zip((share_y, share_x), scaled, self.crop_size, strict=True))

        def view(array: np.ndarray, interpolation: int, **padding) -> np.ndarray:
            if scaled != (height, width):
                array = cv2.resize(array, scaled[::-1], interpolation=interpolation)
            array = mmcv.impad(array, shape=self.crop_size, **padding)
            return array[top:top + self.crop_size[0], left:left + self.crop_size[1]].copy()

        results['img'] = view(results['img'], cv2.INTER_LINEAR, padding_mode='reflect')
        for key in results.get('seg_fields', []):
            # cv2.INTER_NEAREST would shift labels against the image, by up to half a pixel
            results[key] = view(results[key], cv2.INTER_NEAREST_EXACT, pad_val=self.ignore_index)
        results['img_shape'] = results['pad_shape'] = self.crop_size
        results['scale_factor'] = (scaled[1] / width, scaled[0] / height)
        return results

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(crop_size={self.crop_size}, '
                f'ratio_range={self.ratio_range}, ignore_index={self.ignore_index})')


@TRANSFORMS.register_module()
class RandomColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue, in a random order.

    The image stays in floats from the first change to the last; every change clips to [0, 255].
    Brightness multiplies; contrast blends with the image's mean grey; saturation blends with the
    image in grey; hue turns the colour circle, of which 1 is a full turn.

    Required and modified key: ``img``, BGR, uint8 or floats on [0, 255].

    Args:
        prob (float): Probability of changing the image at all, in [0, 1].
        brightness (tuple[float, float]): Range of the factor, >= 0.
        contrast (tuple[float, float]): Range of the factor, >= 0.
        saturation (tuple[float, float]): Range of the factor, >= 0.
        hue (tuple[float, float]): Range of the turn, within [-0.5, 0.5].

    Raises:
        ValueError: If a range or the probability is not valid.
    """

    def __init__(self,
                 prob: float = 0.8,
                 brightness: tuple[float, float] = (0.75, 1.25),
                 contrast: tuple[float, float] = (0.75, 1.25),
                 saturation: tuple[float, float] = (0.75, 1.25),
                 hue: tuple[float, float] = (-0.25, 0.25)) -> None:
        check_probability('prob', prob)
        check_range('brightness', brightness)
        check_range('contrast', contrast)
        check_range('saturation', saturation)
        check_range('hue', hue, -0.5, 0.5)
        self.prob = prob
        self.ranges = dict(
            brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)

    @cache_randomness
    def _draw(self) -> list[tuple[str, float]]:
        """The changes in order, as (name, strength); none if the image stays as it is."""
        if np.random.rand() >= self.prob:
            return []
        names = np.random.permutation(list(self.ranges)).tolist()
        return [(name, np.random.uniform(*self.ranges[name])) for name in names]

    def transform(self, results: dict) -> dict:
        """Jitter the colours of one image."""
        changes = self._draw()
        if changes:
            img = results['img'].astype(np.float32)
            for name, strength in changes:
                img = getattr(self, f'_{name}')(img, strength).clip(0, 255)
            _store_image(results, img)
        return results

    @staticmethod
    def _brightness(img: np.ndarray, factor: float) -> np.ndarray:
        return img * np.float32(factor)

    @staticmethod
    def _contrast(img: np.ndarray, factor: float) -> np.ndarray:
        mean = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY).mean()
        return mean + np.float32(factor) * (img - mean)

    @staticmethod
    def _saturation(img: np.ndarray, factor: float) -> np.ndarray:
        grey = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)[..., None]
        return grey + np.float32(factor) * (img - grey)

    @staticmethod
    def _hue(img: np.ndarray, turn: float) -> np.ndarray:
        hsv = cv2.cvtColor(img / np.float32(255), cv2.COLOR_BGR2HSV)  # hue in degrees
        hsv[..., 0] = (hsv[..., 0] + np.float32(360 * turn)) % 360
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * np.float32(255)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, ranges={self.ranges})'


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blur with a Gaussian of random width.

    Required and modified key: ``img``.

    Args:
        prob (float): Probability of blurring, in [0, 1].
        sigma (tuple[float, float]): Range of the standard deviation in pixels, above 0.

    Raises:
        ValueError: If the range or the probability is not valid.
    """

    def __init__(self, prob: float = 0.5, sigma: tuple[float, float] = (0.15, 1.15)) -> None:
        check_probability('prob', prob)
        check_range('sigma', sigma, positive=True)
        self.prob = prob
        self.sigma = sigma

    @cache_randomness
    def _draw(self) -> float | None:
        """The standard deviation, or None to leave the image as it is."""
        return np.random.uniform(*self.sigma) if np.random.rand() < self.prob else None

    def transform(self, results: dict) -> dict:
        """Blur one image."""
        sigma = self._draw()
        if sigma is not None:
            img = results['img'].astype(np.float32)
            _store_image(results, cv2.GaussianBlur(img, (0, 0), sigma))
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, sigma={self.sigma})'
