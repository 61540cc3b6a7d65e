# Licensed under the Apache License, Version 2.0.
import json
import random
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
from killable import digests
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from test_end_to_end import semi_config  # noqa: F401  a fixture
from tiny_segmentor import make_sample

from mmseg_reco.engine import PseudoLabelHistory, PseudoLabelQualityHook, launch
from mmseg_reco.engine.checkpoint import safe_checkpoint_loading
from mmseg_reco.engine.hooks.observing import undisturbed
from mmseg_reco.engine.hooks.pseudo_label_quality_hook import count_pseudo_labels
from mmseg_reco.models import SemiBaseSegmentor
from mmseg_reco.models.segmentors.distribution_alignment import DistributionAlignment

# Augmented on purpose, to see that what it draws does not reach training.
DATASET = """
train = dict(_base_.dataset, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='RandomRescaleCrop', crop_size=(32, 32)), dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')])
measured = dict(train, ann_file='unlabeled.txt')
"""
THRESHOLDS = """
model.update(semi_train_cfg=dict(weak_threshold=0.2),
             loss_unsup=dict(type='PseudoLabelLoss', strong_threshold=0.334))
"""


@pytest.mark.parametrize('seed', range(3))
def test_counts_are_those_of_a_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (7, 9), generator=generator)
    truth = torch.randint(0, 4, (7, 9), generator=generator)
    truth[torch.rand(7, 9, generator=generator) < 0.3] = 255
    confidence = torch.randint(0, 5, (7, 9), generator=generator) / 4
    counts = count_pseudo_labels(labels, confidence, truth, 5, 0.75, 255)
    expected = [[0] * 5 for _ in range(4)]
    for label, sure, true in zip(labels.flatten().tolist(), confidence.flatten().tolist(),
                                 truth.flatten().tolist(), strict=True):
        if true == 255:
            continue
        expected[0][label] += 1
        expected[1][label] += sure >= 0.75
        expected[2][label] += sure >= 0.75 and label == true
        expected[3][true] += 1
    assert counts.tolist() == expected


def test_quality_is_what_its_names_say():
    counts = np.array([[[10, 4, 0], [8, 0, 0], [6, 0, 0], [12, 5, 0]]])
    history = PseudoLabelHistory(
        np.array(list('abc')), np.zeros((3, 3)), np.array([1]), counts, np.array([0.9]),
        np.array(2))
    quality = history.quality()
    np.testing.assert_array_equal(quality['precision'], [[0.75, np.nan, np.nan]])
    np.testing.assert_array_equal(quality['coverage'], [[0.8, 0, np.nan]])
    np.testing.assert_array_equal(quality['recall'], [[0.5, 0, np.nan]])
    assert 'on 2 images, confident from 0.9 on' in (
        history.draw()['pseudo_label_quality'].get_suptitle())


@HOOKS.register_module(force=True)
class StopHook(Hook):
    """Ends a run abruptly."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise InterruptedError


@HOOKS.register_module(force=True)
class DrawHook(Hook):
    """Training that goes on drawing from the generators where the last iteration left them."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        value = random.random() + np.random.rand() + torch.rand(1).item()  # noqa: NPY002
        runner.message_hub.update_scalar('train/drawn', value)


@pytest.fixture
def config(semi_config, monkeypatch):  # noqa: F811
    """Leaves out what is slow in mmengine and of no interest here."""
    for module in ('mmengine.config.config', 'yapf.yapflib.yapf_api'):  # mmengine's, its fork's
        monkeypatch.setattr(
            f'{module}.FormatCode', lambda text, **kwargs: (text, True), raising=False)
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    return semi_config


def train(config, name, hook=None, own_images=False, stop=None, resume=False,
          loop='ResumableTrainLoop'):
    """Train eight iterations, with checkpoints after 3, 6 and 8, and return the runner.

    Args:
        own_images: Measure on the unlabelled images, randomly augmented, not on validation ones.
    """
    path = config.with_name(f'{name}.py')
    base, rest = config.read_text().split('custom_imports', 1)
    path.write_text(base + DATASET + 'custom_imports' + rest.replace(
        'dataset=_base_.dataset', 'dataset=train') + THRESHOLDS)
    options = {'randomness.seed': 3, 'train_cfg.type': loop, 'train_cfg.max_iters': 8,
               'train_cfg.val_interval': 4, 'default_hooks.checkpoint.interval': 3}
    cfg = launch.load_config(str(path), options, str(config.parent / name))
    cfg.experiment_name = f'{config.parent.name} {name} {stop} {resume}'
    cfg.custom_hooks = [one for one in cfg.custom_hooks if one['type'] != 'ClassRelationHook']
    cfg.custom_hooks.append(dict(type='DrawHook'))
    if hook is not None:
        cfg.custom_hooks.append(dict(
            hook, type='PseudoLabelQualityHook', dataset=cfg.measured if own_images else None))
    if stop is not None:
        cfg.custom_hooks.append(dict(type='StopHook', at=stop))
    if resume:
        launch.resume_latest(cfg, explicit=False)
    with safe_checkpoint_loading():
        runner = launch.build_runner(cfg)
        with pytest.raises(InterruptedError) if stop is not None else nullcontext():
            runner.train()
    return runner


@pytest.mark.parametrize('loop', ['ResumableTrainLoop', 'IterBasedTrainLoop'])
def test_training_is_the_same_with_and_without(config, loop):
    train(config, 'off', loop=loop)
    train(config, 'on', dict(interval=2), own_images=True, loop=loop)
    off, on = (digests(config.parent / name / 'iter_8.pth') for name in ('off', 'on'))
    assert on.pop('pseudo_label_quality')
    assert on == off and {'state_dict', 'optimizer', 'message_hub'} <= set(off)


def test_a_resumed_run_has_every_record_once(config):
    hook = dict(interval=2)
    train(config, 'whole', hook)
    train(config, 'run', hook, stop=5)  # the last checkpoint is of iteration 3
    run = config.parent / 'run'
    assert PseudoLabelHistory.load(run).iterations.tolist() == [1, 2, 4]
    train(config, 'run', hook, resume=True)
    history = PseudoLabelHistory.load(run)
    assert history.iterations.tolist() == [1, 2, 4, 6, 8]
    for name, values in vars(PseudoLabelHistory.load(config.parent / 'whole')).items():
        np.testing.assert_array_equal(getattr(history, name), values)
    assert digests(run / 'iter_8.pth') == digests(config.parent / 'whole/iter_8.pth')


def test_the_teacher_is_measured_and_the_figures_are_logged_and_drawn(config):
    train(config, 'run', dict(interval=5))
    run = config.parent / 'run'
    history = PseudoLabelHistory.load(run)
    assert history.iterations.tolist() == [1, 5, 8]
    assert history.thresholds.tolist() == [0.334] * 3
    assert history.num_images == 1  # as many as there are
    # every pixel has a label and a class
    assert (history.counts[:, [0, 3]].sum(-1) == 32 * 32).all()
    assert (history.counts[:, 1] <= history.counts[:, 0]).all() and history.counts[:, 1].any()
    assert (history.counts[:, 2] <= np.minimum(history.counts[:, 1], history.counts[:, 3])).all()
    assert sorted(path.name for path in run.glob('*/vis_data/vis_image/pseudo*.png')) == [
        f'pseudo_label_quality_{step}.png' for step in (1, 8)]  # validated after 4 and 8
    logged = {}
    for line in next(run.glob('*/vis_data/scalars.json')).read_text().splitlines():
        entry = json.loads(line)
        if any(key.startswith('pseudo_label_') and '/' in key for key in entry):
            logged.setdefault(entry['step'], {}).update(entry)
    assert sorted(logged) == [1, 5, 8]
    for record, step in enumerate((1, 5, 8)):
        for name, values in history.quality().items():
            for label, value in zip(history.classes, values[record], strict=True):
                key = f'pseudo_label_{name}/{label}'
                assert (key in logged[step]) == bool(np.isfinite(value))
                assert logged[step].get(key, 0) == pytest.approx(np.nan_to_num(value))
            known = values[record][np.isfinite(values[record])]
            assert logged[step].get(f'pseudo_label_{name}/mean', 0) == pytest.approx(
                known.mean() if len(known) else 0)


class Oracle(nn.Module):
    """A teacher that answers with the brightness of the first channel: class 0, 1 or 2."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def predict_dense(self, images, metas, embed):
        assert not self.norm.training and not torch.is_grad_enabled()
        assert metas[0]['img_shape'] == images.shape[-2:]
        return images[:, :1].round()

    def probabilities(self, dense):
        classes = torch.arange(3)[None, :, None, None]
        return (dense == classes) * 0.7 + 0.1


class Model(SemiBaseSegmentor):
    """Pads images at the right and below with what would be class 2."""

    def __init__(self):
        nn.Module.__init__(self)
        self.teacher, self.weight = Oracle(), nn.Parameter(torch.zeros(1))
        self.semi_train_cfg, self.region_losses = dict(teacher_batch_stats=True), []
        self.num_classes, self.ignore_index, self.align_corners = 3, 255, False
        self.align = None

    def data_preprocessor(self, data, training):
        (image, ), (sample, ) = data['inputs'], data['data_samples']
        return dict(inputs=nn.functional.pad(image[None], (0, 2, 0, 4), value=2),
                    data_samples=[sample])


def test_padding_is_cut_and_labels_are_compared_at_the_size_of_the_truth():
    image = torch.zeros(3, 4, 6)
    image[:, :, 3:] = 1
    truth = torch.zeros(8, 12, dtype=torch.int64)  # twice as large
    truth[:, 6:] = 1
    truth[:, 9:] = 2
    truth[0] = 255
    hook = PseudoLabelQualityHook(
        num_images=1, dataset=[dict(inputs=image, data_samples=make_sample(truth, (4, 6)))])
    model = Model().train()
    assert model.teacher.norm.training
    with undisturbed(model):
        counts = hook._count(model, 0.75)
    assert counts[0].tolist() == [42, 42, 0]  # seven rows are known
    # on both sides of the edge probabilities are interpolated
    assert counts[1].tolist() == [35, 35, 0]
    assert counts[2].tolist() == [35, 14, 0]
    assert counts[3].tolist() == [42, 21, 21]
    assert model.training and model.teacher.norm.training


def test_labels_are_aligned_as_in_training_and_do_not_count_for_it():
    image = torch.zeros(3, 4, 6)
    hook = PseudoLabelQualityHook(num_images=1, dataset=[
        dict(inputs=image, data_samples=make_sample(image[0].long(), (4, 6)))])
    model = Model()
    model.align = DistributionAlignment(3, [1., 1., 98.])
    model.align.found.fill_(1 / 3)
    with undisturbed(model):
        assert hook._count(model, 0.5)[0].tolist() == [0, 0, 24]
    assert model.align.found.tolist() == pytest.approx([1 / 3] * 3)


def test_ranks_share_the_images_and_one_that_gets_none_counts_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    dataset = [
        dict(inputs=torch.randint(0, 3, (3, 4, 6), generator=generator).float(),
             data_samples=make_sample(torch.randint(0, 3, (4, 6), generator=generator), (4, 6)))
        for _ in range(9)]
    hook, module = PseudoLabelQualityHook(num_images=3, dataset=dataset), (
        'mmseg_reco.engine.hooks.pseudo_label_quality_hook')
    model = Model().eval().requires_grad_(False)
    whole = hook._count(model, 0.5)
    assert whole[0].sum() == 3 * 24
    monkeypatch.setattr(f'{module}.get_world_size', lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(f'{module}.get_rank', lambda rank=rank: rank)
        shares.append(hook._count(model, 0.5))
    assert [int(share[0].sum()) for share in shares] == [24, 24, 24, 0]
    assert torch.equal(sum(shares), whole)


def test_records_hold_the_sums_over_ranks(monkeypatch, tmp_path):
    """Of three ranks that count the same."""
    monkeypatch.setattr('mmseg_reco.engine.hooks.pseudo_label_quality_hook.all_reduce',
                        lambda counts: counts.mul_(3))
    image, model = torch.zeros(3, 4, 6), Model()
    model.semi_train_cfg['weak_threshold'] = 0.5
    hook = PseudoLabelQualityHook(interval=1, num_images=1, dataset=[
        dict(inputs=image, data_samples=make_sample(image[0].long(), (4, 6)))])
    dataset = SimpleNamespace(metainfo=dict(classes=('a', 'b', 'c')))
    hook.after_train_iter(SimpleNamespace(
        model=model, iter=0, work_dir=str(tmp_path),
        train_dataloader=SimpleNamespace(dataset=dataset),
        visualizer=SimpleNamespace(add_scalars=lambda *args, **kwargs: None)), 0)
    assert hook.records[0]['counts'].tolist() == [[3 * 24, 0, 0]] * 4


def test_what_cannot_work_is_said_before_training():
    with pytest.raises(ValueError, match='num_images must be >= 1'):
        PseudoLabelQualityHook(num_images=0)
    runner = SimpleNamespace(model=nn.Linear(1, 1), max_iters=10, val_loop=None)
    with pytest.raises(TypeError, match='Linear'):
        PseudoLabelQualityHook().before_train(runner)
