# Licensed under the Apache License, Version 2.0.
"""UniMatch's options: several strong views, perturbed features, labels from the student itself."""
import copy
import math
from types import SimpleNamespace

import pytest
import torch
from gloo import run_ranks
from mmengine.model import MMDistributedDataParallel
from mmseg.registry import MODELS
from tiny_segmentor import SIZE, make_batch, query_segmentor_config, segmentor_config

from mmseg_reco.engine.hooks import MeanTeacherHook
from mmseg_reco.models.segmentors.dense import drop_channels

RECO = dict(type='ReCoLoss', num_queries=16, num_negatives=32)
UNIMATCH = dict(strong_views=2, feature_dropout=0.5, weak_threshold=0.3)
#: No randomness between the teacher and the student.
STILL = dict(mix=None, rescale_crop=None, strong_augments=[])
HARD = dict(type='PseudoLabelLoss', strong_threshold=0.5, weight_by='pixel', loss_weight=0.5)


def build(segmentor=None, train_cfg=UNIMATCH, type='MeanTeacherReCo', **kwargs):
    torch.manual_seed(0)
    kwargs.setdefault('losses', [RECO])
    if type == 'MeanTeacherReCo':
        kwargs.setdefault('loss_unsup', HARD)
    model = MODELS.build(dict(type=type, segmentor=segmentor or segmentor_config('GN'),
                              semi_train_cfg=dict(train_cfg), **kwargs))
    model.init_weights()
    for network in (model.student, model.teacher):  # sharper than a fresh classifier
        if hasattr(network.heads[-1], 'conv_seg'):
            network.heads[-1].conv_seg.weight.data *= 50
    return model.train()


def backward(model, losses):
    loss, _ = model.parse_losses(losses)
    loss.backward()
    return loss


def step_without_options(model, inputs, samples):
    """The step as it was before there were any of these options."""
    weak, teacher = model.pseudo_label(inputs['unsup'], samples['unsup'])
    strong = model.strong_view(weak)
    student = model.student.forward_dense(torch.cat([inputs['sup'], strong.images]))
    labeled, unlabeled = student.split(len(inputs['sup']))
    losses = model.supervised_losses(labeled, samples['sup'])
    losses['loss_unsup'] = model.loss_unsup(
        model.resize(model.student.class_logits(unlabeled), strong.labels), strong.labels,
        strong.confidence)
    labels = model.complete(samples['sup'], labeled)
    losses.update(model.representation_losses(student, labels, teacher, weak, strong))
    return losses


@pytest.mark.parametrize('losses', [[], [RECO], [RECO, dict(type='RegionFeatureContrastiveLoss')]])
def test_without_the_options_nothing_changes_by_a_bit(losses):
    results = []
    for step in (lambda model, *batch: model.loss(*batch), step_without_options):
        model = build(segmentor_config('BN', auxiliary=True), dict(weak_threshold=0.3),
                      losses=losses)
        torch.manual_seed(1)
        values = step(model, *make_batch(given=True))
        backward(model, values)
        results.append((values, [weight.grad for weight in model.student.parameters()]))
    (ours, gradients), (expected, expected_gradients) = results
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert all(map(torch.equal, gradients, expected_gradients))


def loop_loss(logits, labels, confidence):
    """Plain loop of HARD over the pixels of all images, without its weight."""
    total = count = 0
    for image, truth, certainty in zip(logits.double(), labels, confidence, strict=True):
        for y in range(truth.size(0)):
            for x in range(truth.size(1)):
                if truth[y, x] == 255:
                    continue
                count += 1
                if certainty[y, x] >= 0.5:
                    scores = image[:, y, x].tolist()
                    total += math.log(sum(map(math.exp, scores))) - scores[truth[y, x]]
    return total / count


@pytest.mark.parametrize('joint', [True, False])
def test_step_equals_the_algorithm_written_out(joint):
    """Group normalisation has no batch statistics, so every image can be looked at alone."""
    model = build(train_cfg=dict(UNIMATCH, feature_weight=0.7, joint_forward=joint))
    inputs, samples = make_batch(given=True)
    samples['unsup'][1].set_metainfo(dict(img_shape=(20, 30)))  # the rest is padding
    weak, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    views, decoded, projected, contrasted = [], [], [], []
    strong_view = model.strong_view
    model.strong_view = lambda batch: views.append(strong_view(batch)) or views[-1]
    model.student.decode_head.register_forward_pre_hook(
        lambda module, args: decoded.append(args[0][0]))
    model.student.projector.register_forward_pre_hook(
        lambda module, args: projected.append(len(args[0])))
    model.losses[0].register_forward_pre_hook(lambda module, args: contrasted.append(args))
    losses = model.loss(inputs, samples)

    assert len(views) == 2 and not torch.equal(views[0].images, views[1].images)
    seen = torch.cat(decoded)  # 2 labelled, 2 x 3 strong, 3 perturbed
    images = torch.cat([inputs['sup'], views[0].images, views[1].images, weak.images])
    clean = torch.cat([model.student.extract_feat(image[None])[0] for image in images])
    torch.testing.assert_close(seen[:8], clean[:8])
    dropped = (seen[8:] == 0).flatten(2).all(2)
    assert 0 < dropped.sum() < dropped.numel()
    torch.testing.assert_close(seen[8:], 2 * clean[8:] * ~dropped[:, :, None, None])

    with torch.no_grad():
        logits = torch.cat([
            model.resize(model.student.decode_head([image[None]]), weak.labels) for image in seen])
    strong = [torch.cat([view[field] for view in views]) for field in (1, 2)]
    confident = weak.confidence[weak.labels != 255] >= 0.5
    assert confident.any() and not confident.all()
    assert losses['loss_unsup'].item() == pytest.approx(
        0.5 * loop_loss(logits[2:8], *strong), rel=1e-4)
    assert losses['loss_unsup_features'].item() == pytest.approx(
        0.5 * 0.7 * loop_loss(logits[8:], weak.labels, weak.confidence), rel=1e-4)

    shares = [((image >= 0.5) & (truth != 255)).sum() / (truth != 255).sum()
              for truth, image in zip(*strong, strict=True)]
    assert model.loss_unsup.diagnostics['confident_share'].item() == pytest.approx(
        float(sum(shares)) / 6, rel=1e-5)

    (embeddings, labels, _), = contrasted
    assert len(embeddings) == sum(projected) == 8
    trusted = strong[0].masked_fill(strong[1] < 0.3, 255)
    assert torch.equal(labels[2:], trusted[:, ::4, ::4])


def test_every_stream_teaches_the_student():
    model = build(losses=[])
    inputs, samples = make_batch()
    inputs['unsup'].requires_grad_()
    views, strong_view = [], model.strong_view

    def attached(*args):
        view = strong_view(*args)
        views.append(view.images.requires_grad_())
        return view

    model.strong_view = attached
    losses = model.loss(inputs, samples)
    losses['loss_unsup_features'].backward(retain_graph=True)
    assert all(view.grad is None or not view.grad.any() for view in views)
    assert inputs['unsup'].grad.flatten(1).any(1).all()
    assert all(weight.grad.any() for name, weight in model.student.named_parameters()
               if 'layer1' not in name)  # residual branches begin as 0
    inputs['unsup'].grad = None
    losses['loss_unsup'].backward()
    assert all(view.grad.flatten(1).any(1).all() for view in views)
    assert not inputs['unsup'].grad.any()


def test_unsure_pixels_teach_nothing():
    """At a threshold of 1 only given labels are sure enough."""
    model = build(losses=[], loss_unsup=dict(HARD, strong_threshold=1.))
    losses = model.loss(*make_batch())
    streams = losses['loss_unsup'] + losses['loss_unsup_features']
    streams.backward()
    assert streams == 0 and all(not weight.grad.any() for weight in model.student.parameters())
    losses = build(losses=[], loss_unsup=dict(HARD, strong_threshold=1.)).loss(
        *make_batch(given=True))
    assert losses['loss_unsup'] > 0 and losses['loss_unsup_features'] > 0


def test_the_first_of_two_views_is_the_one_of_one():
    model, (inputs, samples) = build(), make_batch()
    weak, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    torch.manual_seed(3)
    both = model.strong_views(weak)
    torch.manual_seed(3)
    one = model.strong_view(weak)
    assert all(torch.equal(a[:3], b) for a, b in zip(both[:3], one[:3], strict=True))
    assert not torch.equal(both.labels[:3], both.labels[3:])


def test_a_seed_decides():
    losses = []
    for seed in (5, 5, 6):
        model = build()
        torch.manual_seed(seed)
        losses.append(model.loss(*make_batch()))
    for name in ('loss_unsup', 'loss_unsup_features', 'loss_reco'):
        assert torch.equal(losses[0][name], losses[1][name])
        assert not torch.equal(losses[0][name], losses[2][name])


@pytest.mark.parametrize('prob', [0., 0.3, 1.])
def test_whole_channels_are_dropped_of_the_images_behind(prob):
    torch.manual_seed(0)
    maps, tokens = torch.rand(4, 200, 2, 3) + 1, torch.rand(4, 200) + 1
    out = drop_channels([(maps, tokens), maps], 1, prob)
    assert isinstance(out, list) and isinstance(out[0], tuple)
    for old, new in ((maps, out[0][0]), (tokens[..., None, None], out[0][1][..., None, None]),
                     (maps, out[1])):
        assert torch.equal(new[:1], old[:1])
        kept = new[1:, :, :1, :1] != 0
        assert abs(kept.float().mean() - (1 - prob)) < 0.06
        torch.testing.assert_close(new[1:], old[1:] * kept / max(1 - prob, 1e-9))
    if prob == 0.3:  # each map for itself
        assert not torch.equal(out[0][0] == 0, out[1] == 0)


def cascade():
    config = segmentor_config('GN')
    head = dict(config.decode_head)
    for key in ('num_convs', 'concat_input'):
        head.pop(key)
    config.update(type='CascadeEncoderDecoder', num_stages=2, decode_head=[
        config.decode_head, dict(head, type='OCRHead', ocr_channels=4)])
    return config


@pytest.mark.parametrize('segmentor', ['auxiliary', 'cascade', 'MaskFormerHead', 'Mask2FormerHead'])
@pytest.mark.parametrize('joint', [True, False])
def test_networks_of_every_kind(segmentor, joint):
    kwargs = {}
    if segmentor == 'cascade':
        config = cascade()
    elif segmentor == 'auxiliary':
        config = segmentor_config(auxiliary=True)
    else:
        pytest.importorskip('mmdet')
        config, kwargs = query_segmentor_config(segmentor), dict(losses=[RECO])
    model = build(config, dict(UNIMATCH, joint_forward=joint, weak_threshold=0.), **kwargs,
                  loss_unsup=dict(HARD, strong_threshold=0.))
    losses = model.loss(*make_batch())
    assert backward(model, losses).isfinite()
    assert losses['loss_unsup'] > 0 and losses['loss_unsup_features'] > 0
    missing = [name for name, p in model.student.named_parameters() if p.grad is None]
    assert missing == [] and all(p.grad.isfinite().all() for p in model.student.parameters())


@pytest.mark.parametrize('type', ['RC2L', 'MeanTeacherReCo'])
def test_regions_of_two_like_views_are_those_of_one(type):
    terms = [dict(type='RegionMaskContrastiveLoss'), dict(type='RegionFeatureContrastiveLoss'),
             dict(type='SemanticMaskConsistencyLoss')]
    settings = [dict(strong_views=views, weak_threshold=0.3) for views in (1, 2)]
    one, two = (build(type=type, losses=terms, train_cfg=setting, **STILL).loss(*make_batch())
                for setting in settings)
    assert one['loss_rfc'] > 0
    for name, value in one.items():
        torch.testing.assert_close(two[name], value)


def fill(value):
    return lambda inputs, samples: [x.fill_(value) for x in inputs.values()]


def label(value):
    return lambda inputs, samples: [
        sample.gt_sem_seg.data.fill_(value) for part in samples.values() for sample in part]


def pixel(inputs, samples):
    inputs['unsup'][0, 0, 3, 3] = 1e15


@pytest.mark.parametrize('edit', [label(255), label(2), fill(0.), pixel],
                         ids=['nothing labelled', 'one class', 'black images', 'a pixel of 1e15'])
@pytest.mark.parametrize('norm', ['BN', 'GN'])
@pytest.mark.parametrize('images', [1, 3])
def test_hostile_batches_are_finite(edit, norm, images):
    model = build(segmentor_config(norm), dict(UNIMATCH, feature_dropout=0.9))
    inputs, samples = make_batch(labeled=1, unlabeled=images)
    edit(inputs, samples)
    assert backward(model, model.loss(inputs, samples)).isfinite()
    assert all(p.grad.isfinite().all() for p in model.student.parameters())


@pytest.mark.parametrize('buffers', ['copy', 'average'])
def test_a_teacher_of_momentum_one_is_the_student(buffers):
    """FixMatch: the student labels its own images, in eval mode, with its weights of now."""
    model = build(segmentor_config('BN'), dict(UNIMATCH, teacher_batch_stats=False), losses=[])
    hook = MeanTeacherHook(momentum=1., buffers=buffers)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        optimizer.zero_grad()
        inputs, samples = make_batch(step)
        backward(model, model.loss(inputs, samples))
        optimizer.step()
        hook.after_train_iter(SimpleNamespace(model=model, iter=step), step)
        ours, theirs = model.student.state_dict(), model.teacher.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    weak, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    with torch.no_grad():
        student = copy.deepcopy(model.student).eval()
        metas = [dict(img_shape=SIZE)] * len(inputs['unsup'])
        own = student.encode_decode(inputs['unsup'], metas).softmax(1).max(1)
    assert torch.equal(weak.labels, own.indices) and torch.equal(weak.confidence, own.values)


@pytest.mark.parametrize('settings, words', [
    (dict(strong_view=2), r"no \['strong_view'\].*'strong_views'"),
    (dict(feature_drop=0.5), r"no \['feature_drop'\].*'feature_dropout'"),
    (dict(strong_views=0), 'strong_views must be an integer >= 1, got 0'),
    (dict(strong_views=1.5), 'strong_views must be an integer >= 1, got 1.5'),
    (dict(feature_dropout=2), 'feature_dropout is a probability.*got 2'),
    (dict(feature_weight=-1), 'feature_weight must be >= 0, got -1'),
])
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        build(train_cfg=settings)


def test_what_a_method_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"RC2L has no \['feature_dropout'\]"):
        build(type='RC2L', losses=[], train_cfg=UNIMATCH)
    pytest.importorskip('mmdet')
    with pytest.raises(ValueError, match="strong_views > 1 goes with region_source='semantic'"):
        build(query_segmentor_config(), dict(strong_views=2, region_source='query'), 'RC2L',
              losses=[dict(type='RegionMaskContrastiveLoss')])


def test_weak_views_of_another_size_are_refused():
    model = build(rescale_crop=dict(type='BatchRescaleCrop', crop_size=(24, 40)))
    inputs, samples = make_batch()
    inputs['sup'] = inputs['sup'][:, :, :24]
    with pytest.raises(ValueError, match=r'\(24, 40\).*\(32, 40\).*crop_size'):
        model.loss(inputs, samples)


def deterministic():
    return build(losses=[], train_cfg=dict(UNIMATCH, feature_dropout=0.), **STILL)


def losses_and_gradients(model, images):
    """Of some of four labelled and four unlabelled images."""
    inputs, samples = make_batch(labeled=4, unlabeled=4)
    losses = model({name: values[images] for name, values in inputs.items()},
                   {name: values[images] for name, values in samples.items()}, mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    return ({name: value.detach() for name, value in losses.items()},
            [weight.grad for weight in model.parameters() if weight.requires_grad])


def rank_step(rank):
    model = MMDistributedDataParallel(
        deterministic(), broadcast_buffers=False, find_unused_parameters=False)
    return losses_and_gradients(model, slice(2 * rank, 2 * rank + 2))


def test_two_processes_learn_what_one_learns():
    losses, gradients = losses_and_gradients(deterministic(), slice(4))
    (first, own), (second, other) = run_ranks(rank_step)
    assert all(map(torch.equal, own, other))
    for name in ('sup.decode.loss_ce', 'loss_unsup', 'loss_unsup_features'):
        torch.testing.assert_close((first[name] + second[name]) / 2, losses[name])
    scale = max(gradient.abs().max() for gradient in gradients)
    assert all((a - b).abs().max() < 1e-5 * scale for a, b in zip(own, gradients, strict=True))
