# Licensed under the Apache License, Version 2.0.
"""What both query heads share. Each head's loss has its own oracle in its own file."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from tiny_segmentor import NUM_CLASSES, SIZE, make_labels, make_sample, query_segmentor_config

from mmseg_reco.models import QueryOutput, semantic_scores
from mmseg_reco.models.utils import dist_utils

STOCK = ['MaskFormerHead', 'Mask2FormerHead']
each_head = pytest.mark.parametrize('stock', STOCK)


def build(head):
    """A segmentor with weights that are the same for the stock head and ours."""
    torch.manual_seed(0)
    return MODELS.build(query_segmentor_config(head))


def batch(ignored=0., size=2):
    torch.manual_seed(1)
    return (torch.randn(size, 3, *SIZE),
            [make_sample(make_labels(i, ignored=ignored)) for i in range(size)])


def leaves(layers=1, size=2, queries=8, shape=(8, 10)):
    """A forward pass without a network."""
    torch.manual_seed(2)
    return QueryOutput(
        [torch.randn(size, queries, NUM_CLASSES + 1, requires_grad=True)
         for _ in range(layers)],
        [torch.randn(size, queries, *shape, requires_grad=True)
         for _ in range(layers)], torch.empty(size, queries, 8), torch.empty(size, 8, *shape))


def total(losses):
    return sum(loss.sum() for name, loss in losses.items() if 'loss' in name)


@each_head
def test_stock_loss_and_gradients_where_no_pixel_is_ignored(stock):
    results = []
    for head in (stock, f'Region{stock}'):
        model, (inputs, samples) = build(head), batch()
        torch.manual_seed(3)  # Mask2Former's points
        losses = model.loss(inputs, samples)
        total(losses).backward()
        results.append((losses, {name: p.grad for name, p in model.named_parameters()}))
    (expected, expected_grads), (losses, grads) = results
    assert list(losses) == list(expected) and len(losses) == (6 if stock == STOCK[0] else 9)
    for name, loss in losses.items():
        assert loss.shape == ()
        torch.testing.assert_close(loss, expected[name].squeeze())
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-6)


@each_head
def test_both_ways_to_the_loss_agree(stock):
    model, (inputs, samples) = build(f'Region{stock}'), batch(ignored=0.3)
    model.backbone.eval()
    torch.manual_seed(3)
    expected = model.loss(inputs, samples)
    torch.manual_seed(3)
    output = model.decode_head.forward_regions(model.extract_feat(inputs), SIZE)
    losses = model.decode_head.loss_by_regions(output, samples)
    assert [f'decode.{name}' for name in losses] == list(expected)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[f'decode.{name}'], rtol=0, atol=0)


@each_head
def test_checkpoints_are_interchangeable_and_predictions_the_same(stock):
    reference, model = build(stock).eval(), build(f'Region{stock}').eval()
    for parameter in model.parameters():
        parameter.data.add_(1)
    model.load_state_dict(reference.state_dict())  # strict
    build(stock).load_state_dict(model.state_dict())
    inputs, samples = batch()
    metas = [sample.metainfo for sample in samples]
    with torch.no_grad():
        expected = reference.encode_decode(inputs, metas)
        assert torch.equal(model.encode_decode(inputs, metas), expected)
    assert expected.shape == (2, NUM_CLASSES, *SIZE)


@each_head
def test_regions_are_what_the_stock_forward_computes(stock):
    model, (inputs, samples) = build(f'Region{stock}').eval(), batch()
    head, features = model.decode_head, model.extract_feat(inputs)
    output = head.forward_regions(features, SIZE)
    for sample in samples:
        sample.set_metainfo(dict(batch_input_shape=SIZE))
    class_logits, mask_logits = build(stock).eval().decode_head(features, samples)
    assert type(output.class_logits) is type(output.mask_logits) is list
    assert len(output.class_logits) == len(class_logits)
    for ours, theirs in zip((*output.class_logits, *output.mask_logits),
                            (*class_logits, *mask_logits), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    assert output.query_embeddings.shape == (2, 8, 8)
    assert output.pixel_features.shape == (2, 8, 8, 10)
    torch.testing.assert_close(
        head.cls_embed(output.query_embeddings), output.class_logits[-1], rtol=0, atol=0)
    torch.testing.assert_close(
        torch.einsum('bqc,bchw->bqhw', head.mask_embed(output.query_embeddings),
                     output.pixel_features), output.mask_logits[-1], rtol=0, atol=0)
    # Nothing stays hooked, and gradients pass.
    assert not head.mask_embed._forward_pre_hooks and not head.pixel_decoder._forward_hooks
    (output.query_embeddings**3).sum().backward()  # the sum itself is fixed by a layer norm
    assert model.backbone.conv1.weight.grad.abs().max() > 1e-6


@each_head
def test_every_tensor_has_the_batch_first(stock):
    model, (inputs, _) = build(f'Region{stock}').eval(), batch(size=3)
    features = model.extract_feat(inputs)
    output = model.decode_head.forward_regions(features, SIZE)
    last = model.decode_head.forward_regions([x[2:] for x in features], SIZE)
    for whole, part in zip(output, last, strict=True):
        if isinstance(whole, list):
            whole, part = torch.stack(whole, 1), torch.stack(part, 1)
        torch.testing.assert_close(whole[2:], part)


def test_semantic_scores_against_loops():
    output = leaves(size=1, queries=3, shape=(2, 2))
    scores = semantic_scores(output.class_logits[0], output.mask_logits[0])
    classes = output.class_logits[0].detach().double().numpy()[0]
    masks = output.mask_logits[0].detach().double().numpy()[0]
    expected = np.zeros((NUM_CLASSES, 2, 2))
    for k in range(NUM_CLASSES):
        for q in range(3):
            prob = np.exp(classes[q, k]) / np.exp(classes[q]).sum()
            expected[k] += prob / (1 + np.exp(-masks[q]))
    np.testing.assert_allclose(scores.detach().numpy()[0], expected, rtol=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        half = semantic_scores(output.class_logits[0].bfloat16(), output.mask_logits[0].bfloat16())
    assert half.dtype == torch.float32


@each_head
@pytest.mark.parametrize('shape, rows', [(SIZE, 16), ((8, 10), 5)])
def test_ignored_pixels_take_no_part(stock, shape, rows):
    """Rows from 16 on are ignored; at stride 4, mask rows from 5 on reach no other."""
    head = build(f'Region{stock}').decode_head
    samples = batch(ignored=0.2)[1]
    for sample in samples:
        sample.gt_sem_seg.data[:, 16:] = 255
    results = []
    for garbage in (0, 1e6):
        output = leaves(layers=2, shape=shape)
        with torch.no_grad():
            for logits in output.mask_logits:
                logits[:, :, rows:] += garbage * torch.randn_like(logits[:, :, rows:])
        torch.manual_seed(3)
        losses = head.loss_by_regions(output, samples)
        total(losses).backward()
        results.append((losses, [x.grad for x in (*output.class_logits, *output.mask_logits)]))
    (clean, clean_grads), (dirty, dirty_grads) = results
    for name in clean:
        torch.testing.assert_close(dirty[name], clean[name], rtol=0, atol=0)
    for ours, expected in zip(dirty_grads, clean_grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
        assert ours.abs().sum() > 0
    assert not any(grad[:, :, rows:].any() for grad in dirty_grads[2:])


@each_head
def test_an_image_without_labels_teaches_nothing(stock):
    head, output = build(f'Region{stock}').decode_head, leaves()
    samples = [make_sample(make_labels(0)), make_sample(make_labels(0, ignored=1.1))]
    losses = head.loss_by_regions(output, samples)
    total(losses).backward()
    for x in (*output.class_logits, *output.mask_logits):
        assert x.grad[0].any() and not x.grad[1].any()
    if stock == 'MaskFormerHead':  # Mask2Former would draw other points.
        alone = head.loss_by_regions(
            QueryOutput(*([x[:1] for x in y] for y in output[:2]), *output[2:]), samples[:1])
        for name, loss in losses.items():
            torch.testing.assert_close(loss, alone[name])


@each_head
def test_a_batch_without_labels_reaches_every_parameter(stock):
    """Else a rank of DDP without labels would leave the others waiting."""
    reached = []
    for ignored in (0.3, 1.1):
        model, (inputs, samples) = build(f'Region{stock}'), batch(ignored)
        losses = model.loss(inputs, samples)
        total(losses).backward()
        reached.append({n for n, p in model.named_parameters() if p.grad is not None})
    assert not total(losses) and reached[0] == reached[1]
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


@each_head
def test_averages_run_over_all_processes(stock, monkeypatch):
    head, output = build(f'Region{stock}').decode_head, leaves(layers=2)
    samples = [make_sample(make_labels(i)) for i in range(2)]
    torch.manual_seed(3)
    alone = head.loss_by_regions(output, samples)
    exchanged = []

    def twice_as_many_elsewhere(x):
        exchanged.append(x.item())
        x.mul_(3)

    monkeypatch.setattr(dist_utils, 'all_reduce', twice_as_many_elsewhere)
    torch.manual_seed(3)
    losses = head.loss_by_regions(output, samples)
    for name, loss in losses.items():
        torch.testing.assert_close(3 * loss, alone[name])
    # Two exchanges a layer, weights of queries and number of masks, also without labels.
    head.loss_by_regions(output, [make_sample(make_labels(0, ignored=1.1))] * 2)
    assert len(exchanged) == 8 and not any(exchanged[4:]) and all(exchanged[:4])


@each_head
def test_one_labeled_pixel_leaves_matching_to_the_classes(stock):
    """At an odd place, where neither the masks' stride nor the points look."""
    head, output = build(f'Region{stock}').decode_head, leaves(size=1)
    labels = torch.full(SIZE, 255)
    labels[5, 7] = 2
    losses = head.loss_by_regions(output, [make_sample(labels)])
    total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    best = output.class_logits[0].softmax(2)[0, :, 2].argmax()
    taught = output.mask_logits[0].grad[0].flatten(1).any(1).nonzero().flatten().tolist()
    assert taught == ([best] if stock == 'MaskFormerHead' else [])
    expected = torch.full((8, ), NUM_CLASSES)
    expected[best] = 2
    # Cross-entropy pulls exactly the label's logit up.
    assert torch.equal(output.class_logits[0].grad[0].argmin(1), expected)


@each_head
@pytest.mark.parametrize('ignored', [0.3, 1.1])
def test_half_precision_is_finite_and_close(stock, ignored):
    model, (inputs, samples) = build(f'Region{stock}'), batch(ignored)
    torch.manual_seed(3)
    expected = model.loss(inputs, samples)
    torch.manual_seed(3)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(inputs, samples)
    total(losses).backward()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.1, atol=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@each_head
def test_matching_and_loss_stay_in_full_precision(stock):
    """Queries so alike that bfloat16 cannot tell which fits better."""
    head, output = build(f'Region{stock}').decode_head, leaves()
    with torch.no_grad():
        for logits in (*output.class_logits, *output.mask_logits):
            logits *= 0.01
    samples = batch(ignored=0.3)[1]
    results = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            results.append(head.loss_by_regions(output, samples))
    for name, loss in results[1].items():
        torch.testing.assert_close(loss, results[0][name], rtol=0, atol=0)


def test_without_training_settings_there_is_nothing_to_match():
    config = query_segmentor_config('RegionMaskFormerHead').decode_head
    del config['train_cfg']
    assert not hasattr(MODELS.build(config), 'assigner')


def test_missing_mmdet_is_told_when_a_head_is_built_and_only_then():
    code = """
import sys
sys.modules['mmdet'] = None
import mmseg_reco
from mmseg.registry import MODELS
MODELS.build(dict(type='Projector', in_channels=4))
for name in ('RegionMaskFormerHead', 'RegionMask2FormerHead'):
    try:
        MODELS.build(dict(type=name, num_classes=3))
    except ImportError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()[-2:]  # mmseg's fork prints before them, as it is imported
    for name, line in zip(('RegionMaskFormerHead', 'RegionMask2FormerHead'), lines, strict=True):
        assert line.startswith(f'{name} needs mmdet>=3.1,<4, but there is no module "mmdet"')
        assert "pip install 'mmdet>=3.1,<4'" in line and 'mmseg_reco[rc2l]' in line


@pytest.mark.parametrize('version', ['2.28.2', '3.0.0', '4.0.0'])
def test_an_unsupported_mmdet_is_told(version, monkeypatch):
    monkeypatch.setattr('mmdet.__version__', version)
    with pytest.raises(ImportError, match=f'mmdet {version} is installed, but RegionMaskFormerHead '
                       "needs mmdet>=3.1,<4.*pip install 'mmdet"):
        build('RegionMaskFormerHead')


def test_an_incomplete_mmdet_is_told(monkeypatch):
    """One of mmdet's own requirements is missing: mmseg takes that for no mmdet, silently."""
    monkeypatch.setitem(sys.modules, 'mmdet.models.dense_heads', None)
    with pytest.raises(ImportError, match='RegionMaskFormerHead needs mmdet.*no module "mmdet.mod'):
        build('RegionMaskFormerHead')
