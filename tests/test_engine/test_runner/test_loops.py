# Licensed under the Apache License, Version 2.0.
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmseg_reco.datasets.samplers import SeededBatchSampler, seeded_batch_sampler
from mmseg_reco.engine import TeacherStudentValLoop
from mmseg_reco.engine.runner import ResumableTrainLoop, loops


class Model(nn.Module):
    """Predicts its own name."""

    def __init__(self):
        super().__init__()
        self.semi_test_cfg = dict(predict_on='teacher')

    def val_step(self, data):
        return [(self.semi_test_cfg['predict_on'], data)]


class Scores(Evaluator):

    def __init__(self):
        super().__init__([])

    def process(self, data_samples, data_batch):
        self.seen = getattr(self, 'seen', []) + data_samples

    def evaluate(self, size):
        seen, self.seen = self.seen, []
        return dict(size=size, count=len(seen), name=seen[0][0])


def make_loop(model, save_best=None):
    calls = []
    runner = SimpleNamespace(
        model=model, hooks=[Hook(), CheckpointHook(interval=1, save_best=save_best)],
        call_hook=lambda name, **kwargs: calls.append((name, kwargs)))
    return TeacherStudentValLoop(runner, DataLoader(range(3)), Scores()), calls


@pytest.mark.parametrize('predict_on', ['teacher', 'student'])
def test_both_networks_are_scored(predict_on):
    model = Model()
    model.semi_test_cfg['predict_on'] = predict_on
    loop, calls = make_loop(model)
    metrics = loop.run()
    assert metrics == {
        'teacher/size': 3, 'teacher/count': 3, 'teacher/name': 'teacher',
        'student/size': 3, 'student/count': 3, 'student/name': 'student'}
    assert model.semi_test_cfg['predict_on'] == predict_on and not model.training
    names = [name for name, _ in calls]
    assert names.count('before_val_epoch') == names.count('after_val_epoch') == 1
    assert dict(calls)['after_val_epoch'] == dict(metrics=metrics)


@pytest.mark.parametrize('save_best', [
    None, 'auto', ['auto'], 'teacher/mIoU', ['student/mIoU', 'teacher/mAcc']])
def test_scores_that_are_reported_pass(save_best):
    make_loop(Model(), save_best)


@pytest.mark.parametrize(('save_best', 'refused'), [
    ('mIoU', 'mIoU'), (['teacher/mIoU', 'aAcc'], 'aAcc')])
def test_a_best_checkpoint_by_another_score_is_refused_at_once(save_best, refused):
    with pytest.raises(ValueError, match=f"is '{refused}', .*'teacher/{refused}' and 'student/"):
        make_loop(Model(), save_best)


def test_a_model_without_a_teacher_is_refused_at_once():
    with pytest.raises(TypeError, match='got Identity. Use val_cfg=dict'):
        make_loop(nn.Identity())


def drawn(monkeypatch, rank, start=0):
    """A number that each of three iterations draws while it loads, and one while it trains."""
    for module in (loops, seeded_batch_sampler):
        monkeypatch.setattr(module, 'get_rank', lambda: rank)
    loop, numbers = object.__new__(ResumableTrainLoop), []
    loop._runner = SimpleNamespace(
        seed=3, model=nn.Identity(), call_hook=lambda name: None,
        message_hub=SimpleNamespace(get_info=lambda name: start))
    loop._iter, loop._max_iters, loop.stop_training = start, 3, False
    batches = SeededBatchSampler([0], batch_size=1)
    batches.start(start, seed=3)
    loop.dataloader_iterator = (
        (list(batch), numbers.append(torch.rand(()).item())) for batch in batches)

    def run_iter(batch):
        numbers.append(torch.rand(()).item())
        loop._iter += 1

    loop.run_iter = run_iter
    loop._start_data = loop._decide_current_val_interval = loop._validate_if_due = lambda: None
    loop.run()
    return numbers


def test_ranks_iterations_and_loading_draw_numbers_of_their_own(monkeypatch):
    first, second = (drawn(monkeypatch, rank) for rank in range(2))
    assert len(set(first + second)) == 12
    assert drawn(monkeypatch, 1, start=2) == second[4:]  # resumed


def events(stop_at=None, start=0, validated=None):
    """What a run of five iterations does: iterations, validations (negative) and hooks."""
    done = []

    def train_step(batch, optim_wrapper):
        loop.stop_training = loop.iter + 1 == stop_at
        done.append(loop.iter + 1)

    model = nn.Identity()
    model.train_step = train_step
    runner = SimpleNamespace(
        seed=0, _randomness_cfg={}, build_dataloader=Runner.build_dataloader, model=model,
        optim_wrapper=None, val_loop=SimpleNamespace(run=lambda: done.append(-loop.iter)),
        call_hook=lambda name, **kwargs: done.append(name) if name == 'after_train' else None,
        visualizer=SimpleNamespace(), message_hub=MessageHub('loop'))
    runner.message_hub.update_info('last_validation', validated)
    data = dict(dataset=list(range(5)), batch_size=1, num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=False))
    loop = ResumableTrainLoop(runner, data, max_iters=5, val_interval=2, val_begin=3)
    loop._iter = start
    loop.run()
    return done


def test_validations_are_those_of_the_interval_from_the_first_on_and_of_the_end():
    assert events() == [1, 2, 3, 4, -4, 5, -5, 'after_train']
    assert events(start=2) == [3, 4, -4, 5, -5, 'after_train']
    assert events(start=4) == [-4, 5, -5, 'after_train']  # it was due when the run was killed
    assert events(start=4, validated=4) == [5, -5, 'after_train']
    assert events(start=5) == [-5, 'after_train']


def test_a_hook_may_end_the_run():
    assert events(stop_at=3) == [1, 2, 3, 'after_train']
