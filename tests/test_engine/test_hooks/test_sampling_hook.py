# Licensed under the Apache License, Version 2.0.
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from mmengine.config import ConfigDict
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub

from mmseg_reco.engine import SamplingHook
from mmseg_reco.engine.hooks.sampling_hook import scheduled_value
from mmseg_reco.models import PseudoLabelLoss, ReCoLoss


class Model(nn.Module):

    def __init__(self):
        super().__init__()
        self.losses = nn.ModuleList([ReCoLoss()])
        self.loss_unsup = PseudoLabelLoss()
        self.semi_train_cfg = ConfigDict(weak_threshold=0.7)


class Visualizer:

    def __init__(self):
        self.scalars = dict()

    def add_scalars(self, scalars, step):
        self.scalars[step] = scalars


@pytest.fixture
def runner(request):
    dataset = SimpleNamespace(metainfo=dict(classes=('sky', 'road')))
    return SimpleNamespace(
        model=Model(), iter=0, hooks=[LoggerHook(interval=4)], visualizer=Visualizer(),
        message_hub=MessageHub.get_instance(request.node.name),
        train_dataloader=SimpleNamespace(dataset=dataset))


@pytest.mark.parametrize('step, value', [(0, 2), (10, 2), (15, 4), (20, 6), (30, 1), (99, 1)])
def test_schedules_are_piecewise_linear(step, value):
    assert scheduled_value([(10, 2), (20, 6), (30, 1)], step) == value


def test_schedule_reaches_the_losses(runner):
    hook = SamplingHook(dict(
        num_queries=[(0, 10), (10, 21)], temperature=[(0, 1), (10, 0.5)],
        strong_threshold=[(0, 0.5), (10, 0.9)], weak_threshold=[(0, 0.1), (10, 0.7)]))
    runner.iter = 5  # as a resumed run
    hook.before_train(runner)
    reco, model = runner.model.losses[0], runner.model
    assert (reco.num_queries, reco.temperature) == (16, 0.75)
    for step, expected in ((0, (10, 1, 0.5, 0.1)), (5, (16, 0.75, 0.7, 0.4)),
                           (20, (21, 0.5, 0.9, 0.7))):
        runner.iter = step
        hook.before_train_iter(runner, step)
        assert isinstance(reco.num_queries, int)
        assert (reco.num_queries, reco.temperature, reco.strong_threshold,
                model.semi_train_cfg['weak_threshold']) == pytest.approx(expected)
        assert model.loss_unsup.strong_threshold == reco.strong_threshold


def test_statistics_are_means_over_the_interval(runner):
    hook = SamplingHook()
    hook.before_train(runner)
    assert hook.interval == 4
    values = torch.arange(8.)
    for step in range(8):
        runner.iter = step
        runner.model.losses[0].diagnostics = dict(
            hard_query_share=values[step], classes_present=torch.tensor(step),
            negatives_per_class=torch.stack([values[step], 2 * values[step]]))
        hook.after_train_iter(runner, step)
        history = runner.message_hub.log_scalars.get('train/hard_query_share')
        assert (history is None) == (step < 3)
    assert history.data[0].tolist() == [1.5, 5.5]
    assert runner.message_hub.get_scalar('train/classes_present').current() == 5.5
    assert runner.visualizer.scalars == {
        4: {'negatives_per_class/sky': 1.5, 'negatives_per_class/road': 3},
        8: {'negatives_per_class/sky': 5.5, 'negatives_per_class/road': 11}}


def test_a_value_counts_as_often_as_it_was_recorded(runner):
    """Two losses share a name, and hidden truth may be missing from a batch."""
    hook = SamplingHook(interval=2)
    hook.before_train(runner)
    runner.model.losses.append(ReCoLoss())
    for step in range(2):
        runner.iter = step
        for loss, share in zip(runner.model.losses, (0.2, 0.4), strict=True):
            loss.diagnostics = dict(hard_query_share=torch.tensor(share))
        runner.model.diagnostics = dict(pseudo_label_acc=torch.tensor(0.5)) if step else dict()
        hook.after_train_iter(runner, step)
    get = runner.message_hub.get_scalar
    assert get('train/hard_query_share').current() == pytest.approx(0.3)
    assert get('train/pseudo_label_acc').current() == pytest.approx(0.5)


def test_sums_survive_an_interruption(runner, tmp_path):
    def feed(hook, *values):
        for value in values:
            runner.model.losses[0].diagnostics = dict(share=torch.tensor(value))
            hook.after_train_iter(runner, runner.iter)
            runner.iter += 1

    first, second, checkpoint = SamplingHook(interval=4), SamplingHook(interval=4), {}
    feed(first, 1., 2.)
    first.before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    runner._resume, runner.model.weight = True, nn.Parameter(torch.zeros(1))
    second.after_load_checkpoint(
        runner, torch.load(tmp_path / 'checkpoint.pth', weights_only=True))
    feed(second, 3., 6.)
    assert runner.message_hub.get_scalar('train/share').current() == 3


def test_a_real_forward_pass_is_recorded(runner):
    torch.manual_seed(0)
    labels = torch.tensor([[[0, 1], [1, 255]]])
    runner.model.losses[0](
        torch.randn(1, 3, 2, 2), labels, torch.tensor([[[[.99, .9], [.02, .5]],
                                                        [[.01, .1], [.98, .5]]]]))
    hook = SamplingHook(interval=1)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    get = runner.message_hub.get_scalar
    assert get('train/hard_query_share').current() == pytest.approx(1 / 3)
    assert get('train/classes_present').current() == 2
    # Only class 1 has a hard query, and all its negatives are of class 0.
    assert runner.visualizer.scalars[1] == {
        'negatives_per_class/sky': 256 * 512, 'negatives_per_class/road': 0}


@pytest.mark.parametrize('schedules, message', [
    (dict(num_query=[(0, 1)]), '"num_query".*num_queries'),
    (dict(num_queries=[(5, 1), (5, 2)]), 'must ascend'),
    (dict(num_queries=[]), 'must ascend'),
])
def test_bad_schedules_are_refused(schedules, message):
    with pytest.raises(ValueError, match=message):
        SamplingHook(schedules)


@pytest.mark.parametrize('schedules, message', [
    (dict(temperature=[(0, 0)]), 'temperature must be > 0'),
    (dict(temperature=[(0, 1), (900, 0)]), 'temperature must be > 0'),
    (dict(num_queries=[(0, 4), (9, 0.4)]), 'num_queries must be an integer >= 1, got 0'),
    (dict(strong_threshold=[(0, 0)]), r'strong_threshold is a probability in \(0, 1\]'),
    (dict(strong_threshold=[(0, 97)]), 'strong_threshold is a probability'),
    (dict(weak_threshold=[(0, 70)]), r'weak_threshold is a probability in \[0, 1\], got 70'),
    (dict(weak_threshold=[(0, 0.7), (9, -0.1)]), 'weak_threshold is a probability'),
])
def test_values_out_of_range_are_refused_before_training(runner, schedules, message):
    with pytest.raises(ValueError, match=message):
        SamplingHook(schedules).before_train(runner)


def test_values_out_of_range_are_refused_without_reco(runner):
    """The range is that of PseudoLabelLoss then, which 0 belongs to."""
    del runner.model.losses[0]
    SamplingHook(dict(strong_threshold=[(0, 0), (9, 1)])).before_train(runner)
    with pytest.raises(ValueError, match='strong_threshold is a probability .*got 97'):
        SamplingHook(dict(strong_threshold=[(0, 0.5), (9, 97)])).before_train(runner)


def test_schedules_without_a_taker_are_refused(runner):
    del runner.model.semi_train_cfg
    with pytest.raises(ValueError, match='weak_threshold'):
        SamplingHook(dict(weak_threshold=[(0, 0.7)])).before_train(runner)
