# Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmseg.registry import MODELS
from tiny_segmentor import NUM_CLASSES, SIZE, make_batch, query_segmentor_config, segmentor_config

TERMS = dict(
    rmc=dict(type='RegionMaskContrastiveLoss'),
    rfc=dict(type='RegionFeatureContrastiveLoss'),
    rcc=dict(type='RegionClassConsistencyLoss'),
    smc=dict(type='SemanticMaskConsistencyLoss'))
PER_PIXEL = [TERMS['rmc'], TERMS['rfc'], TERMS['smc']]
RECO = dict(type='ReCoLoss', num_queries=16, num_negatives=32)
#: The strong view is the weak one.
STILL = dict(mix=None, strong_augments=[])


def build(segmentor, type='RC2L', sharpen=True, **kwargs):
    """A model whose teacher is confident, which a fresh one is not."""
    torch.manual_seed(0)
    model = MODELS.build(dict(type=type, segmentor=segmentor, **kwargs))
    model.init_weights()
    for network in (model.student, model.teacher) if sharpen else ():
        head = network.decode_head
        if hasattr(head, 'cls_embed'):
            head.cls_embed.weight.data *= 20
            head.cls_embed.bias.data[-1] = -20  # "no object"
        else:
            head.conv_seg.weight.data *= 50
    return model.train()


def step(model, seed=0):
    losses = model.loss(*make_batch(seed))
    loss, _ = model.parse_losses(losses)
    loss.backward()
    return losses, loss


@pytest.mark.parametrize('head', ['MaskFormerHead', 'Mask2FormerHead'])
@pytest.mark.parametrize('source', ['query', 'semantic'])
def test_query_heads_learn_from_all_four_terms(head, source):
    model = build(query_segmentor_config(head),
                  semi_train_cfg=dict(weak_threshold=0.1, region_source=source))
    losses, loss = step(model)
    terms = {'loss_rmc', 'loss_rfc', 'loss_rcc', 'loss_smc'}
    assert terms | {f'sup.decode.loss_{k}' for k in ('cls', 'mask', 'dice')} <= set(losses)
    assert loss.isfinite() and all(losses[name] > 0 for name in terms)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert 0 < model.losses[0].diagnostics['matched_dice'] <= 1


@pytest.mark.parametrize('type', ['RC2L', 'MeanTeacherReCo'])
def test_per_pixel_heads_mix_regional_contrast_with_region_terms(type):
    model = build(segmentor_config(auxiliary=True), type, losses=[RECO, *PER_PIXEL],
                  semi_train_cfg=dict(weak_threshold=0.3))
    losses, loss = step(model)
    assert {'loss_reco', 'loss_rmc', 'loss_rfc', 'loss_smc'} <= set(losses)
    assert ('loss_unsup' in losses) == (type == 'MeanTeacherReCo')
    assert loss.isfinite() and losses['loss_rfc'] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())


@pytest.mark.parametrize('terms', [['rmc'], ['rfc'], ['smc'], ['rmc', 'smc']])
@pytest.mark.parametrize('type', ['RC2L', 'MeanTeacherReCo'])
def test_every_parameter_gets_a_gradient_from_any_term(type, terms):
    """The projector, too, which RMC and SMC do not read: DDP waits for it."""
    model = build(segmentor_config(), type, losses=[TERMS[term] for term in terms],
                  semi_train_cfg=dict(weak_threshold=0.3))
    losses, _ = step(model)
    assert all(losses[f'loss_{term}'] > 0 for term in terms)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())


def test_deeplabv3plus_trains_with_reco_rfc_and_smc():
    config = segmentor_config()
    config.backbone.update(num_stages=4, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1),
                           out_indices=(0, 1, 2, 3))
    config.decode_head.update(
        type='DepthwiseSeparableASPPHead', in_channels=32, in_index=3, channels=8,
        dilations=(1, 2), c1_in_channels=4, c1_channels=4)
    for key in ('num_convs', 'concat_input'):
        config.decode_head.pop(key)
    model = build(config, 'MeanTeacherReCo', tap='sep_bottleneck',
                  losses=[RECO, TERMS['rfc'], TERMS['smc']],
                  semi_train_cfg=dict(weak_threshold=0.3))
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.01, momentum=0.9)
    history = []
    for _ in range(12):
        optimizer.zero_grad()
        torch.manual_seed(1)  # one batch, one view of it
        losses, _ = step(model)
        optimizer.step()
        history.append(losses['loss_rfc'].item() + losses['loss_smc'].item())
    assert history[-1] < history[0]


def test_per_pixel_step_equals_the_algorithm_written_out():
    """Regions are classes, features are projections, and nothing moves between the views."""
    model = build(segmentor_config('GN'), losses=PER_PIXEL, **STILL,
                  semi_train_cfg=dict(weak_threshold=0.4))
    inputs, samples = make_batch()
    losses = model.loss(inputs, copy.deepcopy(samples))

    student = model.student.forward_dense(torch.cat([inputs['sup'], inputs['unsup']]))
    with torch.no_grad():
        teacher = model.teacher.forward_dense(inputs['unsup'])
        confidence, labels = F.interpolate(
            model.teacher.class_logits(teacher), SIZE, mode='bilinear').softmax(1).max(1)
    labels, confidence = labels[:, ::4, ::4], confidence[:, ::4, ::4]
    trusted = confidence >= 0.4
    assert trusted.any() and not trusted.all()
    probs, embeddings = model.student.class_logits(student)[2:].softmax(1), student.embeddings[2:]
    rmc, rfc, smc = [], [], []
    for b in range(3):
        inside = trusted[b].double()
        masks = [probs[b, k].double() * inside for k in range(NUM_CLASSES)]
        given = [(labels[b] == k).double() * inside for k in range(NUM_CLASSES)]
        present = [k for k in range(NUM_CLASSES) if given[k].any()]
        dice = torch.stack([
            torch.stack([(2 * (m * g).sum() + 1) / (m.sum() + g.sum() + 1) for m in masks])
            for g in given])
        ours, theirs = (
            F.normalize(torch.stack([(maps[b].double() * m).sum((1, 2)) / m.sum().clamp_min(1e-6)
                                     for m in weights]), dim=1)
            for maps, weights in ((embeddings, masks), (teacher.embeddings, given)))
        cosine = theirs @ ours.t()
        chosen = torch.tensor(present)
        rmc.append(F.cross_entropy(dice[chosen] / 0.1, chosen))
        rfc.append(F.cross_entropy(cosine[chosen] / 0.1, chosen))
        smc += [1 - dice[k, k] for k in present]
    for name, values in (('rmc', rmc), ('rfc', rfc), ('smc', smc)):
        torch.testing.assert_close(losses[f'loss_{name}'].double(), torch.stack(values).mean(),
                                   rtol=1e-4, atol=1e-5)


def test_mixed_teacher_maps_fit_the_mixed_images():
    """A teacher that sees nothing but the pixel itself: its regions and features must be found on
    the student's side exactly where the student's mixed image shows them."""
    model = build(query_segmentor_config(),
                  semi_train_cfg=dict(weak_threshold=0., region_source='query'),
                  strong_augments=[dict(type='BatchFlip')],
                  rescale_crop=dict(type='BatchRescaleCrop'))
    seen = []
    model.region_losses[0].register_forward_pre_hook(lambda module, args: seen.append(args))

    def fake(features, size):
        """One query for each class: where the image is brightest in one of four bands."""
        outputs = type(model.teacher.decode_head).forward_regions(model.teacher.decode_head,
                                                                  features, size)
        image = fake.images[:, :1, ::4, ::4]
        band = (image * 1.1 + 2).clamp(0, 3.99).long()
        masks = torch.full_like(outputs.mask_logits[-1], -20.)
        masks[:, :NUM_CLASSES] = torch.where(band == torch.arange(4).view(1, 4, 1, 1), 20., -20.)
        logits = torch.full_like(outputs.class_logits[-1], -20.)
        logits[:, :, -1] = 20
        for k in range(NUM_CLASSES):
            logits[:, k, k], logits[:, k, -1] = 20, -20
        return outputs._replace(class_logits=[logits], mask_logits=[masks],
                                pixel_features=image.expand_as(outputs.pixel_features))

    inputs, samples = make_batch()
    fake.images = inputs['unsup']
    model.teacher.decode_head.forward_regions = fake
    views = []
    strong_view = model.strong_view
    model.strong_view = lambda batch: views.append(strong_view(batch)) or views[-1]
    model.loss(inputs, samples)
    (_, target), (strong, ) = seen[0], views
    cells = strong.origin[:, ::4, ::4]
    weak = inputs['unsup'][:, 0, ::4, ::4]
    for b in range(3):
        for y in range(SIZE[0] // 4):
            for x in range(SIZE[1] // 4):
                place = cells[b, y, x].item()
                inside = target.labels[b][target.masks[b, :, y, x] > 0].tolist()
                if place < 0:
                    assert not inside
                    continue
                value = weak[place // 1280, place // 40 % 32 // 4, place % 40 // 4]
                assert torch.equal(target.features[b, :, y, x], value.expand(8))
                assert inside == [int((value * 1.1 + 2).clamp(0, 3.99))]


@pytest.mark.parametrize('segmentor, losses, source', [
    (segmentor_config('GN'), PER_PIXEL, 'semantic'),
    (query_segmentor_config(), [TERMS['smc']], 'query')], ids=['per pixel', 'query'])
def test_small_regions_of_the_teacher_do_not_count(segmentor, losses, source):
    def target(**kwargs):
        model = build(segmentor, losses=losses, **STILL, semi_train_cfg=dict(
            weak_threshold=0.1, region_source=source, **kwargs))
        seen = []
        model.region_losses[0].register_forward_pre_hook(lambda module, args: seen.append(args[1]))
        model.loss(*make_batch())
        return seen[0]

    every = target()
    areas = every.masks.flatten(2).sum(2)
    middle = int(areas[every.exists].median())
    large = target(min_region_area=middle)
    assert torch.equal(large.exists, areas > middle)
    assert 0 < large.exists.sum() < every.exists.sum()
    assert torch.equal(large.masks, every.masks * (areas > middle)[..., None, None])


def test_burn_in_learns_from_labels_alone_and_the_ramp_is_a_line():
    model = build(segmentor_config(), losses=PER_PIXEL, semi_train_cfg=dict(burn_in=2, ramp_up=4))
    assert [model.ramp(i) for i in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert build(segmentor_config(), losses=PER_PIXEL).ramp(0) == 1
    hub = MessageHub.get_current_instance()
    iteration = hub.get_info('iter', 0)
    try:
        hub.update_info('iter', 1)
        losses, _ = step(model)
        assert not {'loss_rmc', 'loss_rfc', 'loss_smc'} & set(losses)
        assert all(p.grad is not None for p in model.student.parameters())
        labeled, unlabeled = ([{branch: part[branch]} for part in make_batch()]
                              for branch in ('sup', 'unsup'))
        assert torch.isfinite(model.loss(*labeled)['sup.decode.loss_ce'])
        with pytest.raises(ValueError, match='no images of the branch "sup".*MultiSourceSampler'):
            model.loss(*unlabeled)
        hub.update_info('iter', 2)
        with pytest.raises(ValueError, match='no images of the branch "unsup".*burn_in'):
            model.loss(*labeled)
        values = []
        for i in (3, 9):
            hub.update_info('iter', i)
            torch.manual_seed(2)
            values.append(model.loss(*make_batch())['loss_rfc'])
        torch.testing.assert_close(values[0], values[1] / 2)
    finally:
        hub.update_info('iter', iteration)


def test_given_labels_of_both_halves_are_supervised():
    model = build(segmentor_config('GN'), losses=PER_PIXEL, mix=None, strong_augments=[],
                  semi_train_cfg=dict(supervise_both_halves=True))
    inputs, samples = make_batch(given=True)
    labels = torch.cat([sample.gt_sem_seg.data for half in ('sup', 'unsup')
                        for sample in samples[half]])
    loss = model.loss(inputs, samples)['sup.decode.loss_ce']
    logits = model.student._forward(torch.cat([inputs['sup'], inputs['unsup']]))
    logits = F.interpolate(logits, labels.shape[1:], mode='bilinear')
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=255))


@pytest.mark.parametrize('head', ['MaskFormerHead', 'Mask2FormerHead'])
@pytest.mark.parametrize('given', [True, False])
def test_query_heads_are_supervised_by_given_labels_of_both_halves(head, given):
    """As stock heads on one labelled batch of both; images without any label do no harm."""
    model = build(query_segmentor_config(head), **STILL, losses=[TERMS['smc']],
                  semi_train_cfg=dict(supervise_both_halves=True))
    stock = copy.deepcopy(model.student)
    inputs, samples = make_batch(given=given)
    torch.manual_seed(1)
    losses = model.loss(inputs, copy.deepcopy(samples))
    torch.manual_seed(1)
    expected = stock.loss(torch.cat([inputs['sup'], inputs['unsup']]),
                          [*samples['sup'], *samples['unsup']])
    for name, value in expected.items():
        torch.testing.assert_close(losses[f'sup.{name}'], value)
        assert value.isfinite()
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.student.parameters())


def test_unconfident_teacher_teaches_nothing():
    model = build(query_segmentor_config(), sharpen=False, semi_train_cfg=dict(weak_threshold=1.))
    losses, loss = step(model)
    assert loss.isfinite()
    assert all(losses[f'loss_{name}'] == 0 for name in TERMS)
    assert all(p.grad is not None for p in model.student.parameters())


def test_prediction_is_the_stock_one():
    model = build(query_segmentor_config()).eval()
    inputs, samples = make_batch()
    stock = MODELS.build(query_segmentor_config()).eval()
    stock.load_state_dict(model.teacher.state_dict())
    ours = model.predict(inputs['sup'], copy.deepcopy(samples['sup']))
    for a, b in zip(ours, stock.predict(inputs['sup'], samples['sup']), strict=True):
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)


def test_a_stock_checkpoint_starts_student_and_teacher():
    model, stock = build(query_segmentor_config()), MODELS.build(query_segmentor_config())
    model.load_state_dict(stock.state_dict())
    for network in (model.student, model.teacher):
        for name, value in network.state_dict().items():
            assert torch.equal(value, stock.state_dict()[name])


@pytest.mark.parametrize('kwargs, words', [
    (dict(segmentor=segmentor_config()), 'RegionClassConsistencyLoss.*FCNHead'),
    (dict(segmentor=segmentor_config(), losses=PER_PIXEL,
          semi_train_cfg=dict(region_source='query')), 'region_source'),
    (dict(segmentor=query_segmentor_config(),
          losses=[dict(TERMS['rcc'], soft=True)]), "region_source='query'"),
    (dict(segmentor=query_segmentor_config(), projector=dict(channels=4)), 'projector'),
    (dict(segmentor=query_segmentor_config(), semi_train_cfg=dict(burn_in=-1)), 'burn_in'),
    (dict(segmentor=query_segmentor_config(), semi_train_cfg=dict(weak_threshold=2)),
     'weak_threshold'),
])
def test_wrong_configs_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)


def test_region_losses_need_a_teacher():
    with pytest.raises(ValueError, match='RC2L'):
        MODELS.build(dict(segmentor_config(), type='EmbeddingEncoderDecoder', losses=PER_PIXEL))
