# Licensed under the Apache License, Version 2.0.
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.registry import MODELS
from tiny_segmentor import NUM_CLASSES, SIZE, make_labels, make_sample, segmentor_config

from mmseg_reco.models.segmentors.dense import DenseOutput, dense_losses
from mmseg_reco.models.segmentors.embedding_encoder_decoder import cross_entropy_of_labels


def build(config, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(dict(config, **kwargs))
    model.init_weights()
    return model


def batch():
    torch.manual_seed(1)
    return torch.randn(2, 3, *SIZE), [make_sample(make_labels(i)) for i in range(2)]


class Recorder(nn.Module):
    loss_name = 'loss_recorded'

    def forward(self, *inputs):
        self.inputs = inputs
        return inputs[0].sum() * 0


@pytest.mark.parametrize('auxiliary', [False, True])
def test_stock_losses_and_predictions_are_unchanged(auxiliary):
    config = segmentor_config(auxiliary=auxiliary)
    stock = build(config)
    ours = build(config, type='EmbeddingEncoderDecoder', losses=[dict(type='ReCoLoss')])
    missing, unexpected = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(key.startswith('projector.') for key in missing)

    expected, losses = stock.loss(*batch()), ours.loss(*batch())
    assert set(losses) - set(expected) == {'loss_reco'}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)

    stock.eval(), ours.eval()
    inputs, samples = batch()
    torch.testing.assert_close(
        ours.predict(inputs, samples)[0].seg_logits.data,
        stock.predict(inputs, samples)[0].seg_logits.data, rtol=0, atol=0)


def test_checkpoint_loads_into_the_stock_class():
    config = segmentor_config()
    ours = build(config, type='EmbeddingEncoderDecoder', losses=[dict(type='ReCoLoss')])
    missing, unexpected = build(config).load_state_dict(ours.state_dict(), strict=False)
    assert not missing and unexpected and all(key.startswith('projector.') for key in unexpected)


def test_prediction_does_not_run_the_projector():
    ours = build(
        segmentor_config(), type='EmbeddingEncoderDecoder', losses=[dict(type='ReCoLoss')]).eval()
    ours.projector.register_forward_hook(lambda *_: pytest.fail('the projector ran'))
    ours.predict(*batch())


def test_without_losses_there_is_no_projector():
    ours = build(segmentor_config(), type='EmbeddingEncoderDecoder')
    assert ours.projector is None and set(ours.state_dict()) == set(
        build(segmentor_config()).state_dict())


def test_every_parameter_gets_a_gradient():
    ours = build(
        segmentor_config(auxiliary=True), type='EmbeddingEncoderDecoder',
        losses=[dict(type='ReCoLoss')])
    loss, _ = ours.parse_losses(ours.loss(*batch()))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    assert all(p.grad.abs().sum() > 0 for p in ours.projector.layers[0].conv.parameters())


def test_a_projector_without_losses_gets_a_gradient():
    """A zero one, for which DDP waits: what is left of a config with ReCo and ``losses=[]``."""
    ours = build(segmentor_config(), type='EmbeddingEncoderDecoder', projector=dict())
    losses = ours.loss(*batch())
    loss, _ = ours.parse_losses(losses)
    loss.backward()
    assert loss == losses['decode.loss_ce'] > 0
    assert not any(p.grad.any() for p in ours.projector.parameters())


def test_losses_of_one_name_are_refused():
    losses = [dict(type='ReCoLoss'), dict(type='ReCoLoss', temperature=0.1)]
    with pytest.raises(ValueError, match='two losses have the name loss_reco.*loss_name'):
        build(segmentor_config(), type='EmbeddingEncoderDecoder', losses=losses)
    single = build(segmentor_config(), type='EmbeddingEncoderDecoder', losses=losses[0])
    assert len(single.losses) == 1
    losses[1].update(loss_name='loss_reco_cold')
    assert build(segmentor_config(), type='EmbeddingEncoderDecoder', losses=losses).loss(
        *batch()).keys() >= {'loss_reco', 'loss_reco_cold'}


def test_losses_see_representations_nearest_labels_and_probabilities():
    inputs, samples = batch()
    model = build(
        segmentor_config(), type='EmbeddingEncoderDecoder', projector=dict(embed_dims=7)).eval()
    dense, recorder = model.forward_dense(inputs), Recorder()
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in samples])
    losses = dense_losses([recorder], dense.embeddings, labels, model.probabilities(dense))
    assert set(losses) == {'loss_recorded'}
    embeddings, small, probs = recorder.inputs
    assert embeddings.shape == (2, 7, SIZE[0] // 4, SIZE[1] // 4) and embeddings.requires_grad
    torch.testing.assert_close(small, labels[:, ::4, ::4])
    assert not probs.requires_grad and probs.shape[1] == NUM_CLASSES
    torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))
    torch.testing.assert_close(probs.argmax(1), model.class_logits(dense).argmax(1))


def test_losses_see_labels_and_probabilities_of_another_size():
    """Half of it: bilinear is the mean of four pixels, nearest the first of them."""
    torch.manual_seed(0)
    probs = torch.randn(2, NUM_CLASSES, 8, 10).softmax(1).requires_grad_()
    labels, embeddings = torch.randint(0, NUM_CLASSES, (2, 8, 10)), torch.randn(2, 7, 4, 5)
    recorder = Recorder()
    dense_losses([recorder], embeddings, labels, probs)
    seen, small, resized = recorder.inputs
    assert seen is embeddings and not resized.requires_grad
    torch.testing.assert_close(resized, F.interpolate(probs, (4, 5), mode='bilinear').detach())
    torch.testing.assert_close(resized, F.avg_pool2d(probs, 2).detach())
    assert small.shape == (2, 4, 5) and small.dtype == torch.int64
    for y in range(4):
        for x in range(5):
            assert torch.equal(small[:, y, x], labels[:, 2 * y, 2 * x])


def test_cross_entropies_average_over_labels_unless_told_otherwise():
    config = segmentor_config()
    config['decode_head']['loss_decode'] = dict(type='CrossEntropyLoss')
    inputs, samples = batch()
    for sample in samples:  # three labelled pixels in all
        sample.gt_sem_seg.data.fill_(255)
    samples[0].gt_sem_seg.data[0, 5, 3:6] = torch.tensor([0, 1, 2])
    ours = build(config, type='EmbeddingEncoderDecoder')
    stock = build(config, type='EmbeddingEncoderDecoder', avg_non_ignore=False)
    share = 3 / (2 * SIZE[0] * SIZE[1])
    torch.testing.assert_close(
        stock.loss(inputs, samples)['decode.loss_ce'],
        ours.loss(inputs, samples)['decode.loss_ce'] * share)


@pytest.mark.parametrize('class_weight', [None, [0.5, 1., 2., 4.]])
def test_class_weights_and_ignored_pixels(class_weight):
    config = segmentor_config()
    config['decode_head']['loss_decode'] = dict(
        type='CrossEntropyLoss', class_weight=class_weight, loss_weight=0.5)
    ours = build(config, type='EmbeddingEncoderDecoder')
    inputs, samples = batch()
    logits = torch.randn(2, NUM_CLASSES, *SIZE, dtype=torch.float64)
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    assert (labels == 255).any()
    torch.testing.assert_close(
        ours.decode_head.loss_by_feat(logits, samples)['loss_ce'],
        0.5 * F.cross_entropy(
            logits, labels, ignore_index=255,
            weight=class_weight and torch.tensor(class_weight, dtype=torch.float64)))
    few = torch.full_like(labels, 255)
    few[0, 0, :3] = torch.tensor([0, 1, 2])
    weight = class_weight and torch.tensor(class_weight, dtype=torch.float64) / 100
    torch.testing.assert_close(  # weights that add up to less than 1
        cross_entropy_of_labels(logits, few, class_weight=weight, ignore_index=255),
        F.cross_entropy(logits, few, weight=weight, ignore_index=255), rtol=1e-5, atol=0)
    labels = torch.full_like(labels, 255)
    assert cross_entropy_of_labels(logits, labels, ignore_index=255) == 0


@pytest.mark.parametrize('class_weight', [None, [0.5, 1., 2., 4.]])
def test_pixel_weights_count(class_weight):
    """As OHEM gives them: they scale the loss of a pixel, and not the number of pixels."""
    torch.manual_seed(0)
    logits = torch.randn(2, NUM_CLASSES, *SIZE, dtype=torch.float64)
    labels = torch.stack([make_labels(0), make_labels(1)])
    weight = torch.rand(2, *SIZE) * (torch.rand(2, *SIZE) < 0.4)
    per_class = torch.tensor(class_weight or [1.] * NUM_CLASSES, dtype=torch.float64)
    pixels = F.cross_entropy(logits, labels, per_class, ignore_index=255, reduction='none')
    number = sum((labels == k).sum() * per_class[k] for k in range(NUM_CLASSES))
    assert 0 < (labels != 255).sum() < labels.numel()
    for reduction, expected in (('mean', (pixels * weight).sum() / number),
                                ('sum', (pixels * weight).sum()), ('none', pixels * weight)):
        value = cross_entropy_of_labels(
            logits, labels, weight=weight, class_weight=class_weight and per_class,
            reduction=reduction, ignore_index=255)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


def test_class_weights_in_half_precision_are_summed_in_float32():
    """As under autocast, where mmseg makes them of the dtype of the logits."""
    torch.manual_seed(0)
    logits, weight = torch.randn(1, NUM_CLASSES, *SIZE).bfloat16(), torch.tensor([0.5, 1., 2., 4.])
    labels = torch.randint(0, NUM_CLASSES, (1, *SIZE))
    expected = F.cross_entropy(logits.float(), labels, weight)
    with torch.autocast('cpu', torch.bfloat16):
        value = cross_entropy_of_labels(
            logits, labels, class_weight=weight.bfloat16(), ignore_index=255)
    torch.testing.assert_close(value.float(), expected, rtol=1e-4, atol=0)


def test_projector_of_knet_is_normalised_as_its_kernel_head():
    config = segmentor_config()
    update = dict(
        type='KernelUpdateHead', num_classes=NUM_CLASSES, num_heads=2, feedforward_channels=8,
        in_channels=6, out_channels=6, conv_kernel_size=1,
        kernel_updator_cfg=dict(
            type='KernelUpdator', in_channels=6, feat_channels=6, out_channels=6))
    config['decode_head'] = dict(
        type='IterativeDecodeHead', num_stages=1, kernel_update_head=[update],
        kernel_generate_head=config['decode_head'])
    ours = build(config, type='EmbeddingEncoderDecoder', losses=[dict(type='ReCoLoss')])
    first, _ = ours.projector.layers
    assert isinstance(first, ConvModule) and isinstance(first.norm, nn.BatchNorm2d)


def test_tokens_are_laid_out_like_the_images():
    ours = build(segmentor_config(), type='EmbeddingEncoderDecoder')
    ours.projector = nn.Identity()
    maps = torch.randn(2, 5, 3, 6)
    tokens = maps.flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours.embed(tokens, torch.zeros(2, 3, 48, 96)), maps)


def test_dense_outputs_split_and_join():
    a, b = torch.randn(5, 2), torch.randn(5, 3)
    dense = DenseOutput((a, [b]), (a, None), None)
    first, second = dense.split(2)
    torch.testing.assert_close(first.features[1][0], b[:2])
    joined = DenseOutput.cat(first, second)
    torch.testing.assert_close(joined.features[0], a)
    torch.testing.assert_close(joined.features[1][0], b)
    assert joined.outputs[1] is None and joined.embeddings is None


def test_a_wrong_tap_is_refused_at_build():
    with pytest.raises(ValueError, match='sep_bottleneck'):
        build(segmentor_config(), type='EmbeddingEncoderDecoder', tap='sep_bottleneck',
              losses=[dict(type='ReCoLoss')])
