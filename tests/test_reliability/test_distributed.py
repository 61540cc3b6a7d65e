# Licensed under the Apache License, Version 2.0.
"""Several processes train as one process with their whole batch, and never wait for ever."""
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from gloo import run_ranks
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmseg.registry import MODELS
from oracles import reco_oracle
from tiny_segmentor import (
    NUM_CLASSES,
    SIZE,
    make_labels,
    make_sample,
    query_segmentor_config,
    segmentor_config,
)

from mmseg_reco.engine.hooks import MeanTeacherHook
from mmseg_reco.models import ReCoLoss
from mmseg_reco.models.segmentors import embedding_encoder_decoder

RECO = dict(type='ReCoLoss', num_queries=8, num_negatives=16)
#: No randomness between the teacher and the student.
STILL = dict(mix=None, rescale_crop=None, strong_augments=[])


def build(norm='GN', **kwargs):
    """The same model in every process."""
    torch.manual_seed(0)
    model = MODELS.build(dict(type='MeanTeacherReCo', segmentor=segmentor_config(norm),
                              loss_unsup=dict(type='PseudoLabelLoss', strong_threshold=0.5),
                              semi_train_cfg=dict(weak_threshold=0.4),
                              **{'losses': [RECO], **kwargs}))
    model.init_weights()
    model.student.decode_head.conv_seg.weight.data *= 50
    model.teacher.decode_head.conv_seg.weight.data *= 1000  # one with opinions
    return model.train()


def raw_batch(seeds, ignored=None):
    """A labelled and an unlabelled image for each seed, as the loader hands them over."""
    inputs, samples = dict(sup=[], unsup=[]), dict(sup=[], unsup=[])
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        share = 0.2 + 0.15 * (seed % 5) if ignored is None else ignored
        for branch, other in (('sup', 'unsup'), ('unsup', 'sup')):
            image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=generator)
            labels = make_labels(seed, share if branch == 'sup' else 1.1)
            height, width = (24, 28) if branch == 'unsup' and seed % 2 else SIZE  # to be padded
            inputs[branch].append(image[:, :height, :width])
            inputs[other].append(None)
            samples[branch].append(make_sample(labels[:height, :width], (height, width)))
            samples[other].append(None)
    return dict(inputs=inputs, data_samples=samples)


def wrap(model):
    return MMDistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=False)


def step(model, batch):
    """Losses and gradients of one step; with DDP, these are the means over the ranks."""
    bare = getattr(model, 'module', model)
    losses = model(**bare.data_preprocessor(batch, True), mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    return ({name: value.detach() for name, value in losses.items() if 'loss' in name},
            {name: weight.grad for name, weight in bare.student.named_parameters()})


SEEDS = [0, 1, 2, 4]  # with 20, 35, 50 and 80 % of the pixels not labelled; one is padded


def two_ranks(rank, norm, evaluate, over_ranks):
    if not over_ranks:  # as stock cross-entropy does
        embedding_encoder_decoder.global_avg_factor = lambda count: count
    model = build(norm, losses=[], **STILL)
    if evaluate:
        model.student.eval()
        model.semi_train_cfg['teacher_batch_stats'] = False
    return step(wrap(model), raw_batch(SEEDS[2 * rank:2 * rank + 2]))


def compare(norm, evaluate, over_ranks):
    """Largest relative difference of the losses, and of the gradients, to one process."""
    model = build(norm, losses=[], **STILL)
    if evaluate:
        model.student.eval()
        model.semi_train_cfg['teacher_batch_stats'] = False
    losses, grads = step(model, raw_batch(SEEDS))
    assert set(losses) == {'sup.decode.loss_ce', 'loss_unsup'} and losses['loss_unsup'] > 0.1
    ranks = run_ranks(two_ranks, norm, evaluate, over_ranks)
    means = {name: sum(rank[0][name] for rank in ranks) / 2 for name in losses}
    for name in grads:
        assert torch.equal(ranks[0][1][name], ranks[1][1][name])
    scale = max(grad.abs().max() for grad in grads.values())
    return (max(float((means[name] / losses[name] - 1).abs()) for name in losses),
            max(float((ranks[0][1][name] - grads[name]).abs().max() / scale) for name in grads))


@pytest.mark.parametrize(('norm', 'evaluate'), [('GN', False), ('BN', True)])
def test_two_processes_have_the_losses_and_gradients_of_one(norm, evaluate):
    """With unlike numbers of labelled pixels; within 1e-6 of the loss, 1e-5 of the gradient."""
    loss, grad = compare(norm, evaluate, over_ranks=True)
    assert loss < 1e-6 and grad < 1e-5


def test_stock_averages_differ():
    """What the test above guards against: a mean of each rank's own mean is another loss."""
    loss, grad = compare('GN', False, over_ranks=False)
    assert loss > 1e-3 and grad > 1e-3


def test_batch_norm_without_synchronisation_differs():
    """SyncBN, on GPUs, is what makes them alike; nothing else can."""
    loss, _ = compare('BN', False, over_ranks=True)
    assert loss > 1e-3


def query_losses(images):
    """Of MaskFormer, whose matching is without randomness; the last image has few labels."""
    torch.manual_seed(0)
    model = MODELS.build(dict(query_segmentor_config(), type='QueryEncoderDecoder')).eval()
    inputs = torch.rand(4, 3, *SIZE)[images]
    samples = [make_sample(make_labels(seed, (0, 0.3, 0.9, 1.1)[seed])) for seed in range(4)]
    return model.supervised_losses(model.forward_dense(inputs), samples[images])


def test_query_heads_have_the_losses_of_one_process():
    expected = query_losses(slice(4))
    assert len(expected) == 6 and all(loss > 0 for loss in expected.values())
    first, second = run_ranks(lambda rank: {
        name: loss.detach() for name, loss in query_losses(slice(2 * rank, 2 * rank + 2)).items()})
    for name, loss in expected.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, loss.detach())


def reco_batch(images):
    """Representations, labels, probabilities of four images: 3 is in the last, the second all 1."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, 6, 5, 5, generator=generator)
    labels = torch.randint(0, 3, (4, 5, 5), generator=generator)
    labels[3, 0], labels[0, 1], labels[:3][labels[:3] == 2] = 3, 255, 1
    labels[1] = 1
    probs = torch.rand(4, 5, 5, 5, generator=generator)
    return embeddings[images], labels[images], probs[images]


def reco_graph(rank, images, sync):
    loss = ReCoLoss(8, 16, sync_prototypes=sync)
    loss(*reco_batch(images[rank]))
    return loss.relation, loss.present, loss.diagnostics['classes_present']


@pytest.mark.parametrize('images', [[[0, 1], [2, 3]], [[0], [1, 2, 3]]])
def test_prototypes_and_graph_are_those_of_the_whole_batch(images):
    relation, present, _ = reco_graph(0, [[0, 1, 2, 3]], True)
    assert present.tolist() == [True, True, True, True, False]
    synced = run_ranks(reco_graph, images, True)
    for graph, known, _ in synced:
        torch.testing.assert_close(graph, relation, rtol=0, atol=1e-6)
        assert torch.equal(known, present)
    assert torch.equal(synced[0][0], synced[1][0])
    assert [int(local) for _, _, local in synced] == [2, 4]  # negatives stay local
    for rank, (graph, known, _) in enumerate(run_ranks(reco_graph, images, False)):
        alone, own, _ = reco_graph(0, [images[rank]], False)
        assert torch.equal(graph, alone) and torch.equal(known, own)
        assert not torch.allclose(graph, relation, atol=1e-3)


def reco_draw(rank, images):
    """The loss of a rank's images, and the queries and keys that it drew."""
    loss, draws = ReCoLoss(8, 16), []
    for sampler in (loss.query_sampler, loss.key_sampler):
        sample = sampler.sample
        sampler.sample = lambda *args, sample=sample: draws.append(sample(*args)) or draws[-1]
    embeddings, labels, probs = reco_batch(images[rank])
    value = loss(embeddings, labels, probs)
    (queries, active), *keys = draws
    return value, queries, active, torch.cat(keys)


@pytest.mark.parametrize('images', [[[0, 1], [2, 3]], [[1], [0, 2, 3]]])
def test_a_rank_contrasts_its_own_pixels_with_prototypes_of_all(images, monkeypatch):
    """Negatives are of classes that this rank has; alone with one, it has no loss."""
    whole = reco_oracle.read_scene(*reco_batch([0, 1, 2, 3]), 0.97)
    prototype = reco_oracle.prototype
    monkeypatch.setattr(reco_oracle, 'prototype', lambda scene, c: prototype(whole, c))
    for own, (value, queries, active, keys) in zip(images, run_ranks(reco_draw, images),
                                                   strict=True):
        scene = reco_oracle.read_scene(*reco_batch(own), 0.97)
        drawn = active.nonzero().flatten().tolist()
        assert drawn == [c for c in scene.present if scene.hard[c]]
        for c in drawn if len(scene.present) > 1 else ():
            others = {pixel for q in scene.present if q != c for pixel in scene.members[q]}
            assert set(queries[c].tolist()) <= set(scene.hard[c])
            assert set(keys[c].flatten().tolist()) <= others
        expected = reco_oracle.loss_of_draw(
            scene, *({c: pixels[c].tolist() for c in drawn} for pixels in (queries, keys)), 0.5)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert (value == 0) == (len(scene.present) == 1)


def digest(tensors):
    """Of names and all bits."""
    result = hashlib.sha256()
    for name, value in tensors.items():
        result.update(name.encode() + value.detach().numpy().tobytes())
    return result.hexdigest()


def train(model, batches, before_step=lambda index: None):
    """Steps as the runner makes them, with the teacher behind; DDP and the stock optimizer."""
    ddp, hook = wrap(model), MeanTeacherHook()
    optimizer = OptimWrapper(torch.optim.SGD(model.student.parameters(), lr=0.05, momentum=0.9))
    hook.before_train(SimpleNamespace(model=ddp, iter=0))
    logs = []
    for index, batch in enumerate(batches):
        before_step(index)
        logs.append(ddp.train_step(batch, optimizer))
        hook.after_train_iter(SimpleNamespace(model=ddp, iter=index), index)
    return logs


def train_rank(rank, norm, world_size, burn_in):
    model = build(norm)
    model.semi_train_cfg['burn_in'] = burn_in
    hub = MessageHub.get_current_instance()
    start = digest(dict(model.student.named_parameters()))
    torch.manual_seed(100 + rank)  # every rank augments and samples in its own way
    train(model, [raw_batch([world_size * index + rank]) for index in range(3)],
          before_step=lambda index: hub.update_info('iter', index))
    networks = {'student weights': dict(model.student.named_parameters()),
                'teacher weights': dict(model.teacher.named_parameters()),
                'teacher statistics': dict(model.teacher.named_buffers()),
                'student statistics': dict(model.student.named_buffers())}
    return start, {name: digest(network) for name, network in networks.items()}


@pytest.mark.parametrize(
    ('norm', 'world_size', 'burn_in'), [('GN', 2, 0), ('BN', 3, 0), ('BN', 2, 2)])
def test_student_and_teacher_are_the_same_on_all_ranks(norm, world_size, burn_in):
    """To the last bit, after three steps; also the statistics of a BN that is not synchronised."""
    (start, first), *others = run_ranks(train_rank, norm, world_size, burn_in,
                                        world_size=world_size)
    assert len({start, first['student weights'], first['teacher weights']}) == 3
    assert all(rank == (start, first) for rank in others)


DEGENERATE = {
    'nothing labelled': dict(labels=255),
    'one class': dict(labels=2),
    'nothing confident': dict(threshold=1.1),
    'nothing at all': dict(labels=255, threshold=1.1),
}


def uneven_rank(rank, case, bad_ranks, sync):
    model = build('BN', losses=[dict(RECO, sync_prototypes=sync)])
    torch.manual_seed(rank)
    batches = [raw_batch([2 * index + rank]) for index in range(2)]
    if rank in bad_ranks:
        if 'threshold' in case:  # a teacher that is never sure
            model.semi_train_cfg['weak_threshold'] = case['threshold']
            model.loss_unsup.strong_threshold = case['threshold']
        for batch in batches:
            for sample in filter(None, batch['data_samples']['sup']):
                if 'labels' in case:
                    sample.gt_sem_seg.data.fill_(case['labels'])
    logs = train(model, batches)
    finite = all(torch.isfinite(value).all() for log in logs for value in log.values())
    reco = [float(log['loss_reco']) for log in logs]
    return finite, reco, digest(model.student.state_dict()), digest(model.teacher.state_dict())


@pytest.mark.parametrize('bad_ranks', [[1], [0, 1]], ids=['one rank', 'both ranks'])
@pytest.mark.parametrize('case', DEGENERATE)
def test_a_rank_with_nothing_to_learn_from_never_hangs_the_others(case, bad_ranks):
    """DDP without find_unused_parameters: each loss must reach each weight, on every rank."""
    results = run_ranks(uneven_rank, DEGENERATE[case], bad_ranks, True)
    assert all(finite for finite, *_ in results)
    assert results[0][2:] == results[1][2:]
    if case == 'nothing at all':
        assert all((reco == [0, 0]) == (rank in bad_ranks)
                   for rank, (_, reco, *_) in enumerate(results))


def test_local_prototypes_do_not_hang_either():
    results = run_ranks(uneven_rank, DEGENERATE['nothing at all'], [1], False)
    assert results[0][2:] == results[1][2:]


def region_rank(rank, head, burn_in):
    """Rank 1 has no label and a teacher that is never sure."""
    torch.manual_seed(0)
    segmentor = query_segmentor_config(head) if head else segmentor_config('GN')
    losses = {} if head else dict(losses=[
        dict(type='RegionMaskContrastiveLoss'), dict(type='RegionFeatureContrastiveLoss'),
        dict(type='SemanticMaskConsistencyLoss')])
    model = MODELS.build(dict(type='RC2L', segmentor=segmentor, **losses, semi_train_cfg=dict(
        weak_threshold=float(rank), burn_in=burn_in)))
    model.init_weights()
    torch.manual_seed(rank)
    logs, hub = [], MessageHub.get_current_instance()
    batches = [raw_batch([2 * index + rank]) for index in range(3)]
    if rank == 1:
        for batch in batches:
            for sample in filter(None, batch['data_samples']['sup']):
                sample.gt_sem_seg.data.fill_(255)
    logs = train(model.train(), batches, lambda index: hub.update_info('iter', index))
    finite = all(torch.isfinite(value).all() for log in logs for value in log.values())
    return finite, ['loss_smc' in log for log in logs], [
        digest({name: value.detach() for name, value in network.named_parameters()})
        for network in (model.student, model.teacher)]


@pytest.mark.parametrize('head', [None, 'MaskFormerHead'])
@pytest.mark.parametrize('burn_in', [0, 1])
def test_regions_on_one_rank_alone_hang_nobody(head, burn_in):
    """Matched regions on rank 0, none on rank 1; in a burn-in nobody looks for any."""
    first, second = run_ranks(region_rank, head, burn_in)
    assert first[0] and second[0]
    assert first[1] == second[1] == [not burn_in, True, True]
    assert first[2] == second[2]


def load_rank(rank, root, labeled, num_workers):
    dataset = dict(
        type='LabeledUnlabeledDataset', labeled=labeled, unlabeled='unlabeled.txt',
        dataset=dict(type='BaseSegDataset', data_root=str(root), img_suffix='.png',
                     data_prefix=dict(img_path='images', seg_map_path='masks'),
                     metainfo=dict(classes=('a', 'b')),
                     pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                               dict(type='PackSegInputs')]))
    # no seed for the sampler: the ranks must agree on one
    loader = Runner.build_dataloader(dict(
        batch_size=4, num_workers=num_workers, dataset=dataset,
        sampler=dict(type='MultiSourceSampler', batch_size=4, source_ratio=[1, 3])), seed=None)
    batches, iterator = [], iter(loader)
    for _ in range(4):
        samples = next(iterator)['data_samples']
        batches.append({branch: [sample.img_path for sample in samples[branch] if sample]
                        for branch in ('sup', 'unsup')})
    return batches


@pytest.mark.parametrize(('labeled', 'num_workers'), [(8, 0), (8, 2), (1, 0)])
def test_ranks_load_their_own_images_in_the_ratio(labeled, num_workers, tmp_path):
    """8 labelled and 24 unlabelled images: 2 ranks x 4 batches of 1 + 3 see each of them once."""
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
        for index in range(32):
            cv2.imwrite(str(tmp_path / folder / f'{index}.png'), np.zeros((4, 4), np.uint8))
    (tmp_path / 'labeled.txt').write_text('\n'.join(map(str, range(labeled))))
    (tmp_path / 'unlabeled.txt').write_text('\n'.join(map(str, range(8, 32))))
    ranks = run_ranks(load_rank, tmp_path, 'labeled.txt', num_workers)
    batches = [batch for rank in ranks for batch in rank]
    assert all(len(batch['sup']) == 1 and len(batch['unsup']) == 3 for batch in batches)
    for branch, count in (('sup', labeled), ('unsup', 24)):
        seen = [path for batch in batches for path in batch[branch]]
        assert len(set(seen)) == count and (len(seen) == count or labeled == 1)


@pytest.mark.slow
def test_two_nodes(tiny_config):
    """Two agents of torchrun on loopback, started as on two machines; the second writes nothing."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = str(sock.getsockname()[1])
    script = Path(__file__).resolve().parents[2] / 'tools' / 'dist_train.sh'
    nodes = [
        subprocess.Popen(
            # the deeper stages of the backbone have no gradient here
            ['bash', str(script), 'tiny.py', '1', '--work-dir', f'node_{rank}', '--cfg-options',
             'find_unused_parameters=True'],
            cwd=tiny_config.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(os.environ, CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable, NNODES='2',
                     NODE_RANK=str(rank), MASTER_ADDR='127.0.0.1', PORT=port))
        for rank in (0, 1)]
    try:
        outputs = [node.communicate(timeout=300)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], '\n'.join(outputs)
    assert 'GPU number: 2' in outputs[0] and 'Iter(train) [4/4]' in outputs[0]
    assert 'Iter(train)' not in outputs[1]
    written = [sorted(path.name for path in (tiny_config.parent / f'node_{rank}').rglob('*.pth'))
               for rank in (0, 1)]
    assert 'iter_4.pth' in written[0] and written[1] == []


def test_classes_outnumber_what_a_rank_shows():
    """The batches above are not degenerate by accident: most ranks show several classes."""
    shown = [len(set(make_labels(seed).flatten().tolist()) - {255}) for seed in range(6)]
    assert min(shown) >= 2 and NUM_CLASSES == 4
