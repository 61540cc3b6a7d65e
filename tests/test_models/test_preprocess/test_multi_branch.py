# Licensed under the Apache License, Version 2.0.
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


def test_branches_are_filtered_and_preprocessed_apart():
    (a, b, c), samples = images(3), [make_sample(make_labels(i)) for i in range(3)]
    data = dict(
        inputs=dict(sup=[a, None, b], unsup=[None, c, None]),
        data_samples=dict(sup=[samples[0], None, samples[1]], unsup=[None, samples[2], None]))
    result = build(bgr_to_rgb=True)(data, training=True)
    stock = MODELS.build(dict(STOCK, bgr_to_rgb=True))
    expected = stock(dict(inputs=[a, b], data_samples=samples[:2]), training=True)
    torch.testing.assert_close(result['inputs']['sup'], expected['inputs'])
    assert len(result['data_samples']['sup']) == 2 and len(result['data_samples']['unsup']) == 1
    assert result['inputs']['unsup'].shape == (1, 3, 32, 40)


def test_a_branch_without_samples_is_left_out():
    (image, ), sample = images(1), make_sample(make_labels(0))
    data = dict(inputs=dict(sup=[image], unsup=[None]),
                data_samples=dict(sup=[sample], unsup=[None]))
    result = build()(data, training=True)
    assert set(result['inputs']) == set(result['data_samples']) == {'sup'}


def test_validation_batches_pass_through():
    batch = dict(inputs=images(1), data_samples=[make_sample(make_labels(0))])
    result = build()(batch)
    assert result['inputs'].shape == (1, 3, 32, 40)


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
