# Licensed under the Apache License, Version 2.0.
"""Colour against colorsys and PIL, blur against SciPy, one image at a time."""

import colorsys

import numpy as np
import pytest
import torch
from mmseg.registry import TASK_UTILS
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from mmseg_reco.models.preprocess import (
    BatchColorJitter,
    BatchGaussianBlur,
    BatchGrayscale,
    PseudoBatch,
    color,
)
from mmseg_reco.models.preprocess.color import (
    adjust_brightness_,
    adjust_contrast_,
    adjust_hue_,
    adjust_saturation_,
    gaussian_blur_,
)


def make_image(size=(17, 23), seed=0):
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


def make_batch(num, size=(12, 15), dtype=torch.float32):
    images = torch.stack([make_image(size, seed) for seed in range(num)]).to(dtype)
    return PseudoBatch(images, torch.zeros(num, *size).long(), torch.ones(num, *size))


def own(batch):
    """Images for an augmentation that changes them."""
    return batch._replace(images=batch.images.clone())


@pytest.mark.parametrize('factor', [0.0, 0.75, 1.0, 1.25, 2.0])
@pytest.mark.parametrize(
    'adjust, enhance',
    [
        (adjust_brightness_, ImageEnhance.Brightness),
        (adjust_contrast_, ImageEnhance.Contrast),
        (adjust_saturation_, ImageEnhance.Color),
    ],
)
def test_adjustments_match_pil(adjust, enhance, factor):
    image = (make_image() * 255).round()
    pil = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
    expected = torch.from_numpy(np.array(enhance(pil).enhance(factor))).permute(2, 0, 1)
    # PIL rounds the grey and the result to whole numbers.
    assert (adjust(image / 255, factor) * 255 - expected).abs().max() < 1 + factor


@pytest.mark.parametrize('shift', [*np.linspace(-0.5, 0.5, 13), 0.25, -0.25, 0.1, 1 / 3])
def test_hue_matches_colorsys(shift):
    image = make_image((11, 12))
    image[:, 0] = image[:1, 0]  # grey
    image[:, 1, :6] = torch.eye(2).repeat(2, 3)[:3]  # corners of the cube
    image[:, 2, :4] = 0
    image[:2, 3] = image[:1, 3]  # two channels equal
    image[1:, 4] = image[1:2, 4]
    out = adjust_hue_(image.clone(), float(shift))
    for pixel, result in zip(image.flatten(1).T, out.flatten(1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
        assert result.tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize('sigma', [0.15, 0.5, 0.9, 1.15])
@pytest.mark.parametrize('size', [(4, 4), (20, 33)])
def test_blur_matches_scipy(sigma, size):
    image = make_image(size)
    expected = gaussian_filter(image.double().numpy(), sigma, mode='mirror', radius=3, axes=(1, 2))
    np.testing.assert_allclose(gaussian_blur_(image.clone(), sigma, 3).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize('augment, share', [(BatchColorJitter(), 0.8), (BatchGaussianBlur(), 0.5)])
def test_each_image_decides_for_itself(augment, share):
    batch = make_batch(400)
    out = augment(own(batch), torch.Generator().manual_seed(0))
    assert out.labels is batch.labels and out.confidence is batch.confidence
    changed = (out.images != batch.images).flatten(1).any(dim=1)
    assert abs(changed.float().mean().item() - share) < 0.08
    assert out.images.min() >= 0 and out.images.max() <= 1
    size = (out.images - batch.images).abs().flatten(1).mean(dim=1)[changed]
    assert size.std() > 0.2 * size.mean()


def test_jitter_factors_are_uniform_and_orders_vary():
    """A flat image shows the brightness factor; two adjustments that clip show the order."""
    images = torch.full((600, 3, 2, 2), 0.5)
    batch = PseudoBatch(images, torch.zeros(600, 2, 2).long(), torch.ones(600, 2, 2))
    only = dict(contrast=(1, 1), saturation=(1, 1), hue=(0, 0))
    jitter = BatchColorJitter(prob=1, brightness=(0.5, 1.5), **only)
    factor = 2 * jitter(own(batch), torch.Generator().manual_seed(0)).images[:, 0, 0, 0]
    assert factor.min() > 0.499 and factor.max() < 1.501
    assert abs(factor.mean().item() - 1) < 0.05
    assert abs(factor.std().item() - 1 / 12**0.5) < 0.03

    images[:, :, 0], images[:, :, 1] = 0.4, 0.1
    fixed = BatchColorJitter(1, (3, 3), (0.5, 0.5), (1, 1), (0, 0))
    out = fixed(own(batch), torch.Generator().manual_seed(0)).images[:, 0, 0, 0]
    first_bright = adjust_contrast_(adjust_brightness_(images[0].clone(), 3), 0.5)[0, 0, 0]
    first_contrast = adjust_brightness_(adjust_contrast_(images[0].clone(), 0.5), 3)[0, 0, 0]
    close = [(out - x).abs() < 1e-5 for x in (first_bright, first_contrast)]
    assert (close[0] ^ close[1]).all()
    assert abs(close[0].float().mean().item() - 0.5) < 0.1


def test_jitter_draws_all_orders_and_a_factor_for_each_adjustment(monkeypatch):
    calls = []
    monkeypatch.setattr(color, '_ADJUSTMENTS', tuple(
        lambda image, factor, k=k: calls.append((k, factor)) or image for k in range(4)))
    BatchColorJitter()(make_batch(3000, (1, 1)), torch.Generator().manual_seed(0))
    order, factors = torch.tensor(calls).view(-1, 4, 2).unbind(2)
    orders, counts = order.unique(dim=0, return_counts=True)
    # 100 expected of each, standard deviation 10
    assert len(orders) == 24 and (counts - len(order) / 24).abs().max() < 50
    factors = factors.gather(1, order.argsort(1))
    assert (torch.corrcoef(factors.T) - torch.eye(4)).abs().max() < 0.1
    for values, (low, high) in zip(factors.T, BatchColorJitter().ranges, strict=True):
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high


def test_blur_draws_sigma_evenly_and_its_kernel_holds_the_largest(monkeypatch):
    """It reaches to three times that: 3.45, rounded."""
    drawn = []
    monkeypatch.setattr(
        color, 'gaussian_blur_', lambda image, *args: drawn.append(args) or image)
    BatchGaussianBlur()(make_batch(2000, (4, 4)), torch.Generator().manual_seed(0))
    sigmas, radii = zip(*drawn, strict=True)
    assert set(radii) == {3}
    assert 0.15 <= min(sigmas) < 0.17 and 1.13 < max(sigmas) <= 1.15
    assert abs(np.mean(sigmas) - 0.65) < 0.04


def test_grayscale_takes_the_colour_out_of_some_images():
    batch = make_batch(300)
    out = BatchGrayscale(prob=0.3)(own(batch), torch.Generator().manual_seed(0)).images
    grey = (out[:, 1:] == out[:, :1]).flatten(1).all(1)
    assert abs(grey.float().mean() - 0.3) < 0.08
    assert torch.equal(out[~grey], batch.images[~grey])
    for image, result in zip(batch.images[grey], out[grey], strict=True):
        assert torch.equal(result, adjust_saturation_(image.clone(), 0))


@pytest.mark.parametrize(
    'augment', [BatchColorJitter(prob=1), BatchGaussianBlur(prob=1), BatchGrayscale(prob=1)]
)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_is_kept(augment, dtype):
    batch = make_batch(3, dtype=dtype)
    out, expected = (
        augment(own(b), torch.Generator().manual_seed(0)).images
        for b in (batch, batch._replace(images=batch.images.float()))
    )
    assert out.dtype == dtype
    assert (out.float() - expected).abs().max() <= (1e-6 if dtype == torch.float64 else 2**-8)


@pytest.mark.parametrize('augment', [BatchColorJitter(), BatchGaussianBlur(), BatchGrayscale(0.5)])
def test_a_seed_decides_and_the_images_change_in_place(augment):
    batches = [make_batch(6) for _ in range(3)]
    first, second, other = (
        augment(batch, torch.Generator().manual_seed(seed)).images
        for batch, seed in zip(batches, (3, 3, 4), strict=True)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first is batches[0].images


@pytest.mark.parametrize(
    'cfg, name',
    [
        (dict(type='BatchColorJitter', prob=-0.1), 'prob'),
        (dict(type='BatchColorJitter', hue=(-0.6, 0.1)), 'hue'),
        (dict(type='BatchColorJitter', contrast=(1.2, 0.8)), 'contrast'),
        (dict(type='BatchGaussianBlur', sigma=(0, 1)), 'sigma'),
        (dict(type='BatchGrayscale', prob=2), 'prob'),
    ],
)
def test_arguments_are_refused_by_name(cfg, name):
    with pytest.raises(ValueError, match=name):
        TASK_UTILS.build(cfg)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_whole_chain_on_cuda_without_synchronisation():
    types = ('BatchRescaleCrop', 'CutOut', 'CutMix', 'RandomCutMix', 'ClassMix', 'BatchColorJitter')
    others = 'BatchGrayscale', 'BatchGaussianBlur', 'BatchFlip'
    chain = [TASK_UTILS.build(dict(type=t)) for t in (*types, *others)]
    host = make_batch(4, (33, 45))
    host = host._replace(labels=host.labels.byte())
    device = host.map(torch.Tensor.cuda)
    torch.cuda.synchronize()
    for augment in chain:
        host = augment(host, torch.Generator().manual_seed(0))
    torch.cuda.set_sync_debug_mode('error')
    try:
        for augment in chain:
            device = augment(device, torch.Generator().manual_seed(0))
    finally:
        torch.cuda.set_sync_debug_mode('default')
    for a, b in zip(device[:3], host[:3], strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=1e-5, rtol=0)


@pytest.mark.parametrize('augment', [BatchColorJitter(), BatchGrayscale()])
@pytest.mark.parametrize('channels', [1, 4])
def test_images_that_are_no_rgb_are_refused(augment, channels):
    batch = PseudoBatch(torch.zeros(1, channels, 4, 4), torch.zeros(1, 4, 4), torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match=rf'have {channels} channel.*out of model.strong_augments'):
        augment(batch)
