# Licensed under the Apache License, Version 2.0.
"""The origin of a pixel: what it names in the weak views is what the strong view holds."""

import pytest
import torch

from mmseg_reco.models.preprocess import (
    BatchColorJitter,
    BatchFlip,
    BatchGaussianBlur,
    BatchRescaleCrop,
    ClassMix,
    CutMix,
    CutOut,
    PseudoBatch,
    RandomCutMix,
)


def make_batch(num=3, size=(24, 31), seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (num, *size), generator=generator)
    images = torch.rand(num, 3, *size, generator=generator)
    # No confidence of 0: that is what pixels from nowhere have.
    return PseudoBatch(images, labels, 0.1 + torch.rand(num, *size, generator=generator))


def test_origin_counts_the_pixels_of_a_batch():
    origin = make_batch().track_origin().origin
    assert origin.shape == (3, 24, 31) and origin.dtype == torch.int64
    assert origin[2, 5, 7] == (2 * 24 + 5) * 31 + 7


def test_batches_are_put_together():
    first, second = make_batch(2), make_batch(3, seed=1)
    both = PseudoBatch.cat([first, second])
    assert both.origin is None
    for field, *parts in zip(both[:3], first, second, strict=False):
        assert torch.equal(field, torch.cat(parts))
    views = [batch.track_origin() for batch in (second, second)]
    assert PseudoBatch.cat(views).origin.max() == second.labels.numel() - 1


@pytest.mark.parametrize('mix', [ClassMix, CutMix, CutOut, RandomCutMix])
@pytest.mark.parametrize('seed', range(4))
def test_labels_and_confidence_are_found_at_the_origin(mix, seed):
    weak = make_batch(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    strong = weak.track_origin()
    for augment in (BatchRescaleCrop((20, 28)), mix(), BatchColorJitter(), BatchGaussianBlur(),
                    BatchFlip()):
        strong = augment(strong, generator)
    somewhere = strong.origin >= 0
    assert somewhere.any()
    assert (strong.origin >= -1).all()
    for name in ('labels', 'confidence'):
        old, new = getattr(weak, name), getattr(strong, name)
        assert torch.equal(old.flatten()[strong.origin[somewhere]], new[somewhere])
    assert (strong.labels[~somewhere] == 255).all()
    assert (strong.confidence[~somewhere] == 0).all()


@pytest.mark.parametrize(
    'augment', [BatchRescaleCrop, ClassMix, CutMix, CutOut, RandomCutMix, BatchFlip])
def test_origin_changes_nothing_else(augment):
    with_origin, without = (
        augment()(batch, torch.Generator().manual_seed(1))
        for batch in (make_batch().track_origin(), make_batch()))
    assert without.origin is None and with_origin.origin is not None
    assert all(torch.equal(a, b) for a, b in zip(with_origin[:3], without[:3], strict=True))
