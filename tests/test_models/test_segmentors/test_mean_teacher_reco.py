# Licensed under the Apache License, Version 2.0.
import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from tiny_segmentor import (
    NUM_CLASSES,
    SIZE,
    make_batch,
    make_labels,
    make_sample,
    query_segmentor_config,
    segmentor_config,
)

from mmseg_reco.engine import MeanTeacherHook
from mmseg_reco.engine.hooks.observing import undisturbed
from mmseg_reco.models import QueryOutput
from mmseg_reco.models.preprocess import PseudoBatch
from mmseg_reco.models.segmentors.dense import DenseOutput
from mmseg_reco.models.segmentors.mean_teacher_reco import MeanTeacherReCo

RECO = dict(type='ReCoLoss', num_queries=16, num_negatives=32)
#: No randomness between the teacher and the student.
STILL = dict(mix=None, rescale_crop=None, strong_augments=[])


def build(segmentor=None, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type='MeanTeacherReCo', segmentor=segmentor or segmentor_config(),
             **{'losses': [RECO], **kwargs}))
    model.init_weights()
    return model.train()


def test_losses_and_gradients():
    model = build(segmentor_config(auxiliary=True))
    losses = model.loss(*make_batch())
    assert set(losses) == {
        'sup.decode.loss_ce', 'sup.decode.acc_seg', 'sup.aux.loss_ce', 'sup.aux.loss_dice',
        'sup.aux.acc_seg', 'loss_unsup', 'loss_reco'}
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize('joint_forward', [True, False])
@pytest.mark.parametrize('threshold', [None, 0.5])
def test_step_equals_the_algorithm_written_out(joint_forward, threshold):
    """Group normalisation has no batch statistics, so one pass or two give the same."""
    model = build(
        segmentor_config('GN'), **STILL, loss_unsup=dict(type='PseudoLabelLoss',
                                                         strong_threshold=0.6),
        semi_train_cfg=dict(joint_forward=joint_forward, weak_threshold=0.4,
                            self_label_threshold=threshold))
    for network in (model.student, model.teacher):  # sharper than a fresh classifier
        network.decode_head.conv_seg.weight.data *= 50
    inputs, samples = make_batch(given=True)
    torch.manual_seed(5)
    losses = model.loss(inputs, copy.deepcopy(samples))

    labels, given = (torch.stack([sample.gt_sem_seg.data[0] for sample in samples[branch]])
                     for branch in ('sup', 'unsup'))
    with torch.no_grad():
        teacher = model.teacher._forward(inputs['unsup'])
        confidence, pseudo = F.interpolate(
            teacher, SIZE, mode='bilinear').softmax(1).max(1)
    pseudo[given != 255] = given[given != 255]
    confidence[given != 255] = 1

    images = torch.cat([inputs['sup'], inputs['unsup']])
    student = model.student.forward_dense(images)
    logits = F.interpolate(model.student.class_logits(student), SIZE, mode='bilinear')
    torch.testing.assert_close(
        losses['sup.decode.loss_ce'], F.cross_entropy(logits[:2], labels, ignore_index=255))

    weights = (confidence >= 0.6).flatten(1).float().mean(1)
    per_pixel = F.cross_entropy(logits[2:], pseudo, reduction='none')
    torch.testing.assert_close(losses['loss_unsup'], (weights[:, None, None] * per_pixel).mean(),
                               rtol=1e-4, atol=0)

    trusted = torch.cat([labels, pseudo])
    trusted[2:][confidence < 0.4] = 255
    if threshold is not None:
        own_confidence, own = logits[:2].detach().softmax(1).max(1)
        fill = (labels == 255) & (own_confidence >= threshold)
        assert fill.any() and not fill.all()
        trusted[:2][fill] = own[fill]
    torch.manual_seed(5)
    expected = model.losses[0](
        student.embeddings, trusted[:, ::4, ::4].contiguous(),
        model.student.class_logits(student).softmax(1))
    torch.testing.assert_close(losses['loss_reco'], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize('views', [1, 2])
@pytest.mark.parametrize('region_losses', [False, True])
def test_given_labels_of_both_halves_are_supervised(views, region_losses):
    """As they lie in the strong views: here flipped ones, with nothing behind a border."""
    losses = [RECO, dict(type='RegionFeatureContrastiveLoss')] if region_losses else []
    model = build(
        segmentor_config('GN'), losses=losses, mix=None, rescale_crop=None,
        strong_augments=[dict(type='BatchFlip', prob=1.)],
        semi_train_cfg=dict(supervise_both_halves=True, strong_views=views))
    inputs, samples = make_batch(given=True)
    labels, given = (torch.cat([sample.gt_sem_seg.data for sample in samples[branch]])
                     for branch in ('sup', 'unsup'))
    loss = model.loss(inputs, copy.deepcopy(samples))['sup.decode.loss_ce']
    images = torch.cat([inputs['sup'], *[inputs['unsup'].flip(3)] * views])
    logits = F.interpolate(model.student._forward(images), SIZE, mode='bilinear')
    expected = torch.cat([labels, *[given.flip(2)] * views])
    torch.testing.assert_close(loss, F.cross_entropy(logits, expected, ignore_index=255))
    plain = build(segmentor_config('GN'), losses=[], **STILL).loss(inputs, copy.deepcopy(samples))
    assert abs(plain['sup.decode.loss_ce'] - loss) > 1e-3


def test_given_labels_without_their_neighbours_are_ignored():
    """What comes from nowhere, and what stands beside a pixel of another image."""
    model = build(losses=[], semi_train_cfg=dict(supervise_both_halves=True))
    given = torch.stack([make_labels(seed, ignored=0) for seed in range(2)])
    batch = PseudoBatch(torch.zeros(2, 3, *SIZE), given, torch.ones(2, *SIZE)).track_origin()
    batch.origin[0, :5] = -1
    pasted = batch.origin[1].clone()
    batch.origin[0, 20, 7] = pasted[20, 7]
    batch.origin[0, 25:, 30:] = pasted[25:, 30:]
    first, second = (sample.gt_sem_seg.data[0] for sample in model.given_samples(batch, given))
    kept = torch.ones(SIZE, dtype=torch.bool)
    kept[:6] = False
    kept[19:22, 6:9] = False
    kept[24:, 29:] = False
    kept[26:, 31:] = True
    assert torch.equal(first != 255, kept)
    expected = given[0].clone()
    expected[26:, 31:] = given[1, 26:, 31:]
    assert torch.equal(first[kept], expected[kept])
    assert torch.equal(second, given[1])


def test_without_statistics_of_its_own_the_teacher_labels_in_eval_mode():
    model = build(**STILL, semi_train_cfg=dict(teacher_batch_stats=False))
    assert model.student.training and not model.teacher.training
    assert not any(module.training for module in model.teacher.modules())
    statistics = copy.deepcopy(dict(model.teacher.named_buffers()))
    model.loss(*make_batch())
    for name, value in model.teacher.named_buffers():
        torch.testing.assert_close(value, statistics[name], rtol=0, atol=0)
    model.eval()
    assert not model.student.training


@pytest.mark.parametrize('region_losses', [False, True])
def test_only_what_labels_is_in_train_mode(region_losses):
    """BN, but not of a backbone with norm_eval, as in the student; and no dropout."""
    config = segmentor_config(auxiliary=True)
    config['decode_head']['dropout_ratio'] = 0.5
    config['backbone']['norm_eval'] = True
    losses = [RECO, dict(type='RegionFeatureContrastiveLoss')] if region_losses else [RECO]
    model = build(config, losses=losses, **STILL)
    training = {name for name, module in model.teacher.named_modules() if module.training}
    assert training == {'decode_head.convs.0.bn',
                        *(['projector.layers.0.bn'] if region_losses else [])}
    assert model.student.decode_head.dropout.training
    before = copy.deepcopy(model.teacher.state_dict())
    model.loss(*make_batch())
    moved = {name for name, value in model.teacher.state_dict().items()
             if not torch.equal(value, before[name])}
    assert {name.rpartition('.')[0] for name in moved} == training
    assert not any(module.training for module in model.eval().modules())


def test_a_model_that_nobody_put_into_train_mode_labels_as_any_other():
    """Modules are in it when they are built; dropout and auxiliary heads of the teacher are not."""
    config = segmentor_config(auxiliary=True)
    config['decode_head']['dropout_ratio'] = 0.5
    fresh, other = (build(config, **STILL) for _ in range(2))
    for module in fresh.modules():
        module.training = True
    for model in (fresh, other):
        model.loss(*make_batch())
    modes = [[module.training for module in model.modules()] for model in (fresh, other)]
    assert modes[0] == modes[1]


@pytest.mark.parametrize('norm', ['GN', 'IN'])
def test_a_teacher_without_bn_is_in_eval_mode(norm):
    model = build(segmentor_config(norm), losses=[], **STILL)
    assert model.loss(*make_batch())['loss_unsup'].isfinite()
    assert not any(module.training for module in model.teacher.modules())


def test_the_teacher_knows_the_statistics_of_weak_views():
    """Of clean images, which it predicts on; those of the student are of strong ones."""
    model = build(**{**STILL, 'strong_augments': [dict(type='BatchColorJitter', prob=1.)]},
                  losses=[])
    inputs, samples = make_batch()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.
    model.loss(inputs, samples)
    features = model.teacher.backbone.conv1(inputs['unsup'])
    torch.testing.assert_close(
        model.teacher.backbone.bn1.running_mean, features.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert (model.student.backbone.bn1.running_mean
            - model.teacher.backbone.bn1.running_mean).abs().max() > 1e-3


def test_one_unlabelled_image_behind_a_pooling_is_refused_with_the_remedy():
    config = segmentor_config('BN')
    config['decode_head'] = dict(
        type='ASPPHead', in_channels=config['decode_head']['in_channels'], in_index=-1, channels=8,
        dilations=(1, ), num_classes=NUM_CLASSES, norm_cfg=dict(type='BN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
    batch = make_batch(labeled=2, unlabeled=1)
    with pytest.raises(ValueError, match='batch_size.*teacher_batch_stats=False'):
        build(config, losses=[]).loss(*copy.deepcopy(batch))
    losses = build(config, losses=[], semi_train_cfg=dict(teacher_batch_stats=False)).loss(*batch)
    assert losses['loss_unsup'].isfinite()


def test_a_teacher_without_work_takes_the_students_statistics(monkeypatch):
    """In the burn-in, from MeanTeacherHook."""
    iteration = dict(iter=0)
    monkeypatch.setattr(MessageHub, 'get_current_instance', lambda: SimpleNamespace(
        get_info=lambda key, default: iteration[key]))
    model = build(losses=[], semi_train_cfg=dict(burn_in=1))
    hook = MeanTeacherHook()

    def step(number):
        iteration['iter'] = number
        model.loss(*make_batch(number))
        hook.after_train_iter(SimpleNamespace(model=model, iter=number), number)
        return [network.backbone.bn1.running_mean.clone()
                for network in (model.student, model.teacher)]

    student, teacher = step(0)
    assert torch.equal(student, teacher)
    with undisturbed(model.train()):  # a hook that looks on, just before a step
        pass
    student, teacher = step(0)
    assert torch.equal(student, teacher)
    student, after = step(1)
    assert not torch.equal(after, teacher) and not torch.equal(after, student)
    model.eval().loss(*make_batch())
    assert torch.equal(model.teacher.backbone.bn1.running_mean, after)


def test_given_labels_override_the_teacher_with_confidence_one():
    model, (inputs, samples) = build(), make_batch(given=True)
    batch, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    given = torch.stack([sample.gt_sem_seg.data[0] for sample in samples['unsup']])
    known = given != 255
    assert known.any() and (batch.labels[known] == given[known]).all()
    assert (batch.confidence[known] == 1).all() and (batch.confidence[~known] < 1).all()
    assert (batch.labels != 255).all()


def test_confidence_at_a_threshold_is_enough():
    """So given labels, of confidence 1, take part at a threshold of 1, too."""
    model = build(semi_train_cfg=dict(weak_threshold=0.5, self_label_threshold=0.25))
    batch = PseudoBatch(
        torch.zeros(1, 3, 1, 2), torch.tensor([[[1, 2]]]), torch.tensor([[[0.5, 0.49]]]))
    assert model.trusted(batch).tolist() == [[[1, 255]]]
    unlabeled = [make_sample(torch.full((2, 2), 255), (2, 2))]
    even = DenseOutput((), [torch.zeros(1, NUM_CLASSES, 2, 2)], None)  # 0.25 for each class
    assert (model.complete(unlabeled, even) != 255).all()
    model.semi_train_cfg['self_label_threshold'] = 0.26
    assert (model.complete(unlabeled, even) == 255).all()


def test_where_no_query_claims_a_pixel_the_student_is_not_sure_of_it():
    model = build(query_segmentor_config(), losses=[],
                  semi_train_cfg=dict(self_label_threshold=0.97))
    sure = torch.tensor([9., 0, 0, 0, 0]).expand(1, 1, -1)  # one query, of class 0
    claimed = torch.tensor([[9., -9.]]).expand(1, 1, 2, 2)
    outputs = QueryOutput([sure], [claimed], None, None)
    labels = model.complete([make_sample(torch.full((2, 2), 255), (2, 2))],
                            DenseOutput((), outputs, None))
    assert labels.tolist() == [[[0, 255], [0, 255]]]


def test_padding_gets_no_label_of_the_students_own():
    model = build(semi_train_cfg=dict(self_label_threshold=0.))
    samples = [make_sample(torch.full((4, 5), 255), (3, 2))]
    labels = model.complete(samples, DenseOutput((), [torch.zeros(1, NUM_CLASSES, 4, 5)], None))
    inside = torch.zeros(1, 4, 5, dtype=torch.bool)
    inside[:, :3, :2] = True
    assert torch.equal(labels != 255, inside)


def test_padding_is_ignored():
    model, (inputs, samples) = build(), make_batch()
    samples['unsup'][1].set_metainfo(dict(img_shape=(20, 30)))
    batch, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[:20, :30] = True
    assert torch.equal(batch.labels[1] != 255, inside)
    assert torch.equal(batch.confidence[1] > 0, inside)
    assert (batch.labels[0] != 255).all()


def test_padding_of_the_first_image_moves_no_label():
    """The stock preprocessor leaves a torch.Size, at which mmseg resizes the whole batch's maps."""
    model, (inputs, samples) = build(), make_batch()
    expected, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    samples['unsup'][0].set_metainfo(dict(img_shape=torch.Size((20, 30))))
    batch, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    assert torch.equal(batch.labels[0, :20, :30], expected.labels[0, :20, :30])
    assert torch.equal(batch.labels[1:], expected.labels[1:])


def test_hidden_truth_is_for_diagnostics_alone():
    results = []
    for flip in (False, True):
        model, (inputs, samples) = build(), make_batch()
        for sample in samples['unsup']:
            if flip:
                sample.hidden_sem_seg.data = 3 - sample.hidden_sem_seg.data
        torch.manual_seed(7)
        losses = model.loss(inputs, samples)
        results.append((losses, model.diagnostics['pseudo_label_acc']))
    for name, value in results[0][0].items():
        torch.testing.assert_close(value, results[1][0][name], rtol=0, atol=0)
    assert results[0][1] != results[1][1]


@pytest.mark.parametrize('padded', [False, True])
def test_diagnostics_are_means_over_pixels_that_are_not_padding(padded):
    """Share of right labels and confidence; images count by their own sizes."""
    model, (inputs, samples) = build(), make_batch()
    sizes = [(20, 30), (12, 40), SIZE] if padded else [SIZE] * 3
    for sample, (height, width) in zip(samples['unsup'], sizes, strict=True):
        sample.set_metainfo(dict(img_shape=(height, width)))
        sample.hidden_sem_seg = PixelData(data=sample.hidden_sem_seg.data[:, :height, :width])
    batch, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    right = torch.cat([
        (label[:height, :width] == sample.hidden_sem_seg.data[0]).flatten()
        for label, sample, (height, width) in zip(
            batch.labels, samples['unsup'], sizes, strict=True)])
    assert model.diagnostics['pseudo_label_acc'] == right.float().mean()
    torch.testing.assert_close(
        model.diagnostics['teacher_confidence'], batch.confidence[batch.labels != 255].mean())
    del samples['unsup'][0].hidden_sem_seg
    model.pseudo_label(inputs['unsup'], samples['unsup'])
    assert 'pseudo_label_acc' not in model.diagnostics


def test_diagnostics_are_of_the_teacher_alone_where_labels_are_given():
    diagnostics = []
    for given in (False, True):
        model, (inputs, samples) = build(), make_batch(given=given)
        model.pseudo_label(inputs['unsup'], samples['unsup'])
        diagnostics.append(model.diagnostics)
    assert (samples['unsup'][0].gt_sem_seg.data != 255).any()
    assert diagnostics[0] == diagnostics[1]


def test_a_strong_view_is_rescaled_then_mixed_then_recoloured():
    """Colours of RGB in [0, 1], all else of normalised images."""
    model, calls = build(), []

    def note(name):
        return lambda batch: calls.append((name, bool(batch.images.min() < 0))) or batch

    model.rescale_crop, model.mix = note('rescale and crop'), note('mix')
    model.strong_augments = [note('colour'), note('flip')]
    images = make_batch()[0]['unsup']
    labels = images[:, 0].long()
    model.strong_view(PseudoBatch(images, labels, labels.float()))
    assert calls == [
        ('rescale and crop', True), ('mix', True), ('colour', False), ('flip', False)]


@pytest.mark.parametrize('rescale_crop', [
    None, dict(type='BatchRescaleCrop', ratio_range=(1, 1)), dict(type='BatchRescaleCrop')])
def test_a_strong_view_leaves_the_weak_one_as_it_was(rescale_crop):
    model = build(rescale_crop=rescale_crop, mix=None, strong_augments=[
        dict(type='BatchColorJitter', prob=1), dict(type='BatchGaussianBlur', prob=1),
        dict(type='BatchFlip', prob=1)])
    inputs, samples = make_batch()
    weak = model.pseudo_label(inputs['unsup'], samples['unsup'])[0].track_origin()
    kept = weak.map(torch.clone)
    strong = model.strong_view(weak)
    assert all(torch.equal(a, b) for a, b in zip(weak, kept, strict=True))
    assert [x.dtype for x in strong] == [x.dtype for x in weak]
    assert not any(torch.equal(a, b) for a, b in zip(strong, weak, strict=True))


def test_strong_view_keeps_image_and_label_together():
    """Images whose colour is their label: every augmentation must move both alike."""
    model = build(rescale_crop=dict(type='BatchRescaleCrop', ratio_range=(1.2, 1.2)),
                  strong_augments=[dict(type='BatchFlip')])
    inputs, samples = make_batch()
    for i, sample in enumerate(samples['unsup']):
        sample.gt_sem_seg.data = make_labels(i, ignored=0)[None]
    batch, _ = model.pseudo_label(inputs['unsup'], samples['unsup'])
    images = model.data_preprocessor.from_rgb(
        (batch.labels[:, None] / 8).expand(-1, 3, -1, -1))
    torch.manual_seed(3)
    strong = model.strong_view(batch._replace(images=images))
    colours = model.data_preprocessor.to_rgb(strong.images)[:, 0] * 8
    valid = strong.labels != 255
    # Bilinear images blur the edges of blocks by a pixel; labels are nearest.
    assert ((colours - strong.labels).abs()[valid] < 0.05).float().mean() > 0.75
    assert not torch.equal(strong.labels, batch.labels)


@pytest.mark.parametrize('mix', ['ClassMix', 'CutMix', 'CutOut'])
def test_mixing_baselines_have_no_projector(mix):
    model = build(losses=[], mix=dict(type=mix))
    assert model.student.projector is None
    losses = model.loss(*make_batch())
    assert 'loss_reco' not in losses
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert all(p.grad is not None for p in model.student.parameters())


def test_prediction_is_the_teachers_or_the_students():
    model = build().eval()
    inputs, samples = make_batch()
    for name in ('teacher', 'student'):
        model.semi_test_cfg['predict_on'] = name
        expected = getattr(model, name).predict(inputs['sup'], copy.deepcopy(samples['sup']))
        predicted = model.predict(inputs['sup'], copy.deepcopy(samples['sup']))
        assert torch.equal(predicted[0].seg_logits.data, expected[0].seg_logits.data)
    assert build().semi_test_cfg == dict(predict_on='teacher')
    with pytest.raises(ValueError, match='tutor'):
        build(semi_test_cfg=dict(predict_on='tutor'))


def test_a_plain_checkpoint_starts_both_networks():
    model = build()
    plain = MODELS.build(segmentor_config())
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all('projector' in key for key in missing)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[f'student.{name}'], value)
        assert torch.equal(model.state_dict()[f'teacher.{name}'], value)


def test_own_checkpoint_round_trip():
    first, second = build(), build()
    with torch.no_grad():
        for p in first.parameters():
            p.add_(1)
    second.load_state_dict(first.state_dict())
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


@pytest.mark.parametrize('labels', [255, 2], ids=['nothing labelled', 'one class'])
def test_degenerate_batches_are_finite(labels):
    model, (inputs, samples) = build(), make_batch(labeled=1, unlabeled=1)
    for sample in samples['sup'] + samples['unsup']:
        sample.gt_sem_seg.data.fill_(labels)
    loss, _ = model.parse_losses(model.loss(inputs, samples))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.student.parameters())


def with_head(**changes):
    config = segmentor_config()
    config.decode_head.update(changes)
    return config


@pytest.mark.parametrize('argument, message', [
    (dict(semi_train_cfg=dict(weak_treshold=0.7)), 'weak_treshold.*weak_threshold'),
    (dict(semi_train_cfg=dict(weak_threshold=7)), 'weak_threshold.*7'),
    (dict(segmentor=dict(type='MultimodalEncoderDecoder')), 'MultimodalEncoderDecoder'),
    (dict(segmentor=dict(type='EmbeddingEncoderDecoder')), 'MeanTeacherReCo itself'),
    (dict(segmentor=dict(type='Mine')), 'class of your own adds .*: name the stock class'),
    (dict(pretrained='r50.pth'), r'give it as model\.segmentor\.pretrained'),
    (dict(train_cfg=dict()), r'give it as model\.segmentor\.train_cfg'),
    (dict(losses=[dict(type='ReCoLoss')] * 2), 'two losses have the name loss_reco'),
    (dict(losses=[dict(type='ReCoLoss', loss_name='loss_unsup')]), 'the name loss_unsup'),
    (dict(segmentor=with_head(ignore_index=0)), '4 classes and decode_head.ignore_index=0'),
    (dict(segmentor=with_head(num_classes=256)), '256 classes.*at most 255'),
    (dict(segmentor=with_head(type='PIDHead'), semi_train_cfg=dict(supervise_both_halves=True)),
     'PIDHead learns edges.*supervise_both_halves'),
])
def test_bad_configs_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        build(**argument)


def test_other_forms_of_the_same_config():
    """A scope, a class, and a single loss or augmentation without a list around it."""
    for kind in ('mmseg.EncoderDecoder', EncoderDecoder):
        model = build(segmentor_config() | dict(type=kind), losses=dict(type='ReCoLoss'),
                      strong_augments=dict(type='BatchFlip'), pretrained=None, train_cfg=None)
        assert type(model.student).__name__ == 'EmbeddingEncoderDecoder'
        assert [type(loss).__name__ for loss in model.losses] == ['ReCoLoss']
        assert [type(step).__name__ for step in model.strong_augments] == ['BatchFlip']


def test_halves_of_different_size_are_refused():
    model = build(rescale_crop=dict(type='BatchRescaleCrop', crop_size=(24, 40)))
    inputs, samples = make_batch()
    with pytest.raises(ValueError, match=r'\(32, 40\).*\(24, 40\).*crop_size'):
        model.loss(inputs, samples)


def test_defaults_are_the_papers():
    model = build(losses=[dict(type='ReCoLoss')])
    reco = model.losses[0]
    assert (reco.num_queries, reco.num_negatives, reco.temperature) == (256, 512, 0.5)
    assert reco.strong_threshold == model.loss_unsup.strong_threshold == 0.97
    assert model.semi_train_cfg['weak_threshold'] == 0.7
    assert reco.loss_weight == model.loss_unsup.loss_weight == 1
    assert type(model.mix).__name__ == 'ClassMix' and len(model.strong_augments) == 3
    assert MeanTeacherReCo.train_defaults['self_label_threshold'] is None
