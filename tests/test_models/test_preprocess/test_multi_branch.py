# Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
from mmseg.registry import MODELS
from tiny_segmentor import make_labels, make_sample

STOCK = dict(
    type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    size=(32, 40))


def build(**kwargs):
    return MODELS.build(
        dict(type='MultiBranchDataPreprocessor', data_preprocessor=dict(STOCK, **kwargs)))


def images(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, 32, 40), generator=generator, dtype=torch.uint8)
            for _ in range(num)]


def same(ours, expected):
    """Whether two batches of the stock preprocessor hold the same images, labels and names."""
    torch.testing.assert_close(ours['inputs'], expected['inputs'], rtol=0, atol=0)
    for a, b in zip(ours['data_samples'], expected['data_samples'], strict=True):
        assert a.metainfo == b.metainfo
        assert torch.equal(a.gt_sem_seg.data, b.gt_sem_seg.data)


def named_samples(num):
    samples = [make_sample(make_labels(i)) for i in range(num)]
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_path=f'{i}.png'))
    return samples


def test_branches_are_filtered_and_preprocessed_apart():
    (a, b, c), samples = images(3), named_samples(3)
    data = dict(
        inputs=dict(sup=[a, None, b], unsup=[None, c, None]),
        data_samples=dict(sup=[samples[0], None, samples[1]], unsup=[None, samples[2], None]))
    result = build(bgr_to_rgb=True)(copy.deepcopy(data), training=True)
    stock = MODELS.build(dict(STOCK, bgr_to_rgb=True))
    for name, inputs, given in (('sup', [a, b], samples[:2]), ('unsup', [c], samples[2:])):
        same({key: value[name] for key, value in result.items()},
             stock(dict(inputs=inputs, data_samples=given), training=True))


def test_a_branch_without_samples_is_left_out():
    (image, ), sample = images(1), make_sample(make_labels(0))
    data = dict(inputs=dict(sup=[image], unsup=[None]),
                data_samples=dict(sup=[sample], unsup=[None]))
    result = build()(data, training=True)
    assert set(result['inputs']) == set(result['data_samples']) == {'sup'}


def test_validation_batches_pass_through():
    batch = dict(inputs=images(2), data_samples=named_samples(2))
    settings = dict(bgr_to_rgb=True, test_cfg=dict(size_divisor=64))
    result = build(**settings)(copy.deepcopy(batch))
    assert result['inputs'].shape == (2, 3, 64, 64)
    same(result, MODELS.build(dict(STOCK, **settings))(batch))


@pytest.mark.parametrize('channels', [dict(bgr_to_rgb=True), dict()], ids=['rgb', 'bgr'])
@pytest.mark.parametrize('normalised', [True, False])
def test_rgb_and_back(channels, normalised):
    preprocessor = build(**channels, **({} if normalised else dict(mean=None, std=None)))
    bgr = images(2)
    batch = dict(inputs=bgr, data_samples=[make_sample(make_labels(i)) for i in range(2)])
    inputs = preprocessor.data_preprocessor(batch, training=True)['inputs']
    rgb = preprocessor.to_rgb(inputs)
    # The loader reads BGR, whatever the network takes.
    torch.testing.assert_close(rgb, torch.stack(bgr).flip(1).float() / 255, atol=1e-6, rtol=0)
    torch.testing.assert_close(preprocessor.from_rgb(rgb), inputs, atol=1e-4, rtol=0)


@pytest.mark.parametrize('settings, sizes, said', [
    (dict(size=None), [(32, 40)] * 2, r"'sup', of shapes \[\(3, 32, 40\)\].*is the crop size"),
    (dict(mean=[0.], std=[1.]), [(32, 40)], None),
    (dict(mean=[0., 0.], std=[1., 1.]), [(32, 40)], 'a number for each channel')])
def test_images_that_do_not_become_a_batch_are_named(settings, sizes, said):
    samples = [make_sample(make_labels(0))] * len(sizes)
    data = dict(inputs=dict(sup=[torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]),
                data_samples=dict(sup=samples))
    if said is None:
        build(**settings)(data, training=True)
    else:
        with pytest.raises(ValueError, match=said):
            build(**settings)(data, training=True)
