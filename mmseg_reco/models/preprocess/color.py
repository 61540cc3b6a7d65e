# Licensed under the Apache License, Version 2.0.
"""Colour jitter and blur; the functions take one RGB image in [0, 1], the classes a batch.

All of them change what they are given, which on CPU is quicker than to write to new memory:
``tools/benchmarks/batch_augmentation.py``. Arithmetic runs in float32 at least, and elementwise
only, so that neither autocast nor TF32 touches it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations

import torch
import torch.nn.functional as F
from mmseg.registry import TASK_UTILS
from torch import Generator, Tensor

from mmseg_reco.utils import check_probability, check_range

from .draws import between, uniforms
from .pseudo_batch import PseudoBatch


def _grey(image: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, (1, H, W)."""
    red, green, blue = image.split(1)
    return (0.299 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def adjust_brightness_(image: Tensor, factor: float) -> Tensor:
    """Scale an RGB image in [0, 1], (3, H, W), and clip."""
    return image.mul_(factor).clamp_(0, 1)


def adjust_contrast_(image: Tensor, factor: float) -> Tensor:
    """Scale the distance of an RGB image in [0, 1] to its mean grey, and clip."""
    return image.lerp_(_grey(image.mean((1, 2), keepdim=True)), 1 - factor).clamp_(0, 1)


def adjust_saturation_(image: Tensor, factor: float) -> Tensor:
    """Scale the distance of an RGB image in [0, 1] to its own grey, and clip."""
    return image.lerp_(_grey(image), 1 - factor).clamp_(0, 1)


def adjust_hue_(image: Tensor, shift: float) -> Tensor:
    r"""Turn the hue of HSV, without leaving RGB.

    At constant value M = max(r, g, b) and chroma M - m, m = min(r, g, b), each channel is a
    trapezoid of the hue: two sixths of the circle at M, one falling, two at m, one rising; the
    three channels are a third of the circle apart. A shift by thirds permutes the channels. For a
    remaining shift of d sixths, 0 ≤ d ≤ 1, the shifted red trapezoid is

    .. math:: r' = clamp(r - g + (2d - 1) b + (1 - d)(M + m),\ m,\ M)

    and cyclically so for g' and b'; a negative shift exchanges the roles of g and b (check it
    sixth by sixth: in each, two of the channels are m and M and the third moves linearly). So
    there is no division, and a grey pixel needs no special case.

    Args:
        image: (3, H, W) RGB.
        shift: In turns; 1 is the whole circle.
    """
    thirds = round(3 * shift)
    rest = 6 * shift - 2 * thirds
    linear = 2 * abs(rest) - 1
    after, before = (linear, -1) if rest < 0 else (-1, linear)
    low, high = image.amin(0), image.amax(0)
    base = (low + high).mul_(1 - abs(rest))
    turned = [base + channel for channel in image]
    for channel, target in enumerate(turned):
        target.add_(image[(channel + 1) % 3], alpha=after)
        target.add_(image[(channel + 2) % 3], alpha=before)
    for channel, target in enumerate(turned):
        torch.clamp(target, low, high, out=image[(channel + thirds) % 3])
    return image


_ADJUSTMENTS = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)
_ORDERS = tuple(permutations(range(4)))


def gaussian_blur_(image: Tensor, sigma: float, radius: int) -> Tensor:
    """Separable Gaussian blur with reflected borders.

    Args:
        image: (C, H, W), H and W > radius.
        sigma: Standard deviation in pixels, > 0.
        radius: The kernel has 2·radius + 1 taps and is normalised to sum 1.
    """
    weights = [math.exp(-0.5 * (tap / sigma) ** 2) for tap in range(radius + 1)]
    # Taps that a float32 sum does not see are left out.
    weights = [weight for weight in weights if weight > torch.finfo(torch.float32).eps]
    weights = weights[:0:-1] + weights
    weights = [weight / sum(weights) for weight in weights]
    height, width = image.shape[-2:]
    # Adding shifted images is quicker than a convolution with one group per channel.
    padded = F.pad(image[None], (len(weights) // 2,) * 4, mode='reflect')[0]
    rows = padded[:, :height] * weights[0]
    for k in range(1, len(weights)):
        rows.add_(padded[:, k : k + height], alpha=weights[k])
    torch.mul(rows[..., :width], weights[0], out=image)
    for k in range(1, len(weights)):
        image.add_(rows[..., k : k + width], alpha=weights[k])
    return image


@contextmanager
def _working_dtype(image: Tensor) -> Iterator[Tensor]:
    """An image to change, in float32 at least."""
    working = image.to(torch.promote_types(image.dtype, torch.float32))
    yield working
    image.copy_(working)  # does nothing where they are one tensor


def check_rgb(augment: object, images: Tensor) -> None:
    """Refuse images (B, N, H, W) of other than three channels.

    Raises:
        ValueError: If N is not 3.
    """
    if images.size(1) != 3:
        raise ValueError(f'{type(augment).__name__} changes colours, and the images have '
                         f'{images.size(1)} channel(s), not 3: leave it out of '
                         'model.strong_augments, such as [dict(type="BatchGaussianBlur"), '
                         'dict(type="BatchFlip")]')


@TASK_UTILS.register_module()
class BatchColorJitter:
    """Random brightness, contrast, saturation and hue, each image for itself, in random order.

    Step 4 of docs/methods/reco.md. Expects RGB images in [0, 1], which it changes.

    Args:
        prob: Probability that an image is jittered.
        brightness, contrast, saturation: Intervals of the uniform factors.
        hue: Interval of the uniform shift, in turns.

    Raises:
        ValueError: An argument is out of range, or an interval is not ordered.
    """

    def __init__(
        self,
        prob: float = 0.8,
        brightness: tuple[float, float] = (0.75, 1.25),
        contrast: tuple[float, float] = (0.75, 1.25),
        saturation: tuple[float, float] = (0.75, 1.25),
        hue: tuple[float, float] = (-0.25, 0.25),
    ) -> None:
        check_probability('prob', prob)
        check_range('brightness', brightness)
        check_range('contrast', contrast)
        check_range('saturation', saturation)
        check_range('hue', hue, -0.5, 0.5)
        self.prob = prob
        self.ranges = (brightness, contrast, saturation, hue)

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        check_rgb(self, batch.images)
        draws = uniforms(len(batch.images), 6, generator)
        for image, (applied, order, *factors) in zip(batch.images, draws, strict=True):
            if applied < self.prob:
                with _working_dtype(image) as working:
                    for k in _ORDERS[int(order * len(_ORDERS))]:
                        _ADJUSTMENTS[k](working, between(factors[k], self.ranges[k]))
        return batch


@TASK_UTILS.register_module()
class BatchGrayscale:
    """Take the colour out of each image with probability ``prob`` (docs/methods/unimatch.md).

    Expects RGB images in [0, 1], which it changes.

    Raises:
        ValueError: ``prob`` is not in [0, 1].
    """

    def __init__(self, prob: float = 0.2) -> None:
        check_probability('prob', prob)
        self.prob = prob

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        check_rgb(self, batch.images)
        draws = uniforms(len(batch.images), 1, generator)
        for image, (draw,) in zip(batch.images, draws, strict=True):
            if draw < self.prob:
                with _working_dtype(image) as working:
                    working.copy_(_grey(working))
        return batch


@TASK_UTILS.register_module()
class BatchGaussianBlur:
    """Random Gaussian blur, each image with its own sigma (step 4 of docs/methods/reco.md).

    The kernel reaches to three times the largest sigma, rounded to whole pixels. Changes the images
    that it is given.

    Args:
        prob: Probability that an image is blurred.
        sigma: Interval of the uniform standard deviation, in pixels, > 0.

    Raises:
        ValueError: ``prob`` is not in [0, 1], or the interval is not ordered or not positive.
    """

    def __init__(self, prob: float = 0.5, sigma: tuple[float, float] = (0.15, 1.15)) -> None:
        check_probability('prob', prob)
        check_range('sigma', sigma, positive=True)
        self.prob = prob
        self.sigma = sigma
        self.radius = int(3 * sigma[1] + 0.5)

    def __call__(self, batch: PseudoBatch, generator: Generator | None = None) -> PseudoBatch:
        draws = uniforms(len(batch.images), 2, generator)
        for image, (applied, draw) in zip(batch.images, draws, strict=True):
            if applied < self.prob:
                with _working_dtype(image) as working:
                    gaussian_blur_(working, between(draw, self.sigma), self.radius)
        return batch
