# Licensed under the Apache License, Version 2.0.
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn

from mmseg_reco.engine import ClassHistory, ClassRelationHook
from mmseg_reco.engine.hooks.class_relation_hook import RelationSums
from mmseg_reco.models import ReCoLoss

CLASSES = ('sky', 'road', 'car')


class Pictures:
    """A visualizer that keeps what it is given."""

    def __init__(self):
        self.images = {}

    def add_image(self, name, image, step=0):
        self.images[name, step] = image


class Log(list):

    def warning(self, text):
        self.append(text)


def make_runner(tmp_path, resume=False, max_iters=6):
    model = nn.ModuleList([ReCoLoss(), nn.Linear(1, 1)])
    dataset = SimpleNamespace(
        metainfo=dict(classes=CLASSES, palette=[[0, 0, 255], [90, 90, 90], [200, 0, 0]]))
    return SimpleNamespace(
        model=model, iter=0, max_iters=max_iters, work_dir=str(tmp_path), _resume=resume,
        train_dataloader=SimpleNamespace(dataset=dataset), visualizer=Pictures(), logger=Log())


def random_steps(num):
    generator = torch.Generator().manual_seed(0)
    for _ in range(num):
        prototypes = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator))
        present = torch.rand(3, generator=generator) < 0.6
        yield prototypes @ prototypes.T, prototypes * present[:, None], present


def run(hook, runner, steps):
    hook.before_train(runner)
    for relation, prototypes, present in steps:
        loss = runner.model[0]
        loss.relation, loss.prototypes, loss.present = relation, prototypes, present
        hook.after_train_iter(runner, 0)
        runner.iter += 1


def test_average_is_over_steps_in_which_both_classes_were_present(tmp_path):
    hook, runner, steps = ClassRelationHook(), make_runner(tmp_path), list(random_steps(6))
    run(hook, runner, steps)
    mean, total = hook.history(runner).mean(), hook.history(runner).steps.sum(0)
    for i in range(3):
        for j in range(3):
            met = [float(relation[i, j]) for relation, _, present in steps
                   if present[i] and present[j]]
            assert total[i, j] == len(met)
            assert mean[i, j] == pytest.approx(np.mean(met), abs=1e-6)


def test_classes_that_never_met_have_no_relation(tmp_path):
    hook, runner = ClassRelationHook(), make_runner(tmp_path)
    run(hook, runner, [(torch.eye(3), torch.eye(3), torch.tensor([True, True, False]))])
    nan = np.nan
    np.testing.assert_array_equal(
        ClassHistory.load(tmp_path).mean(), [[1, 0, nan], [0, 1, nan], [nan, nan, nan]])


def test_records_hold_the_means_since_the_one_before(tmp_path):
    hook, runner, steps = ClassRelationHook(interval=4), make_runner(tmp_path, max_iters=10), list(
        random_steps(10))
    run(hook, runner, steps)
    history = ClassHistory.load(tmp_path)
    assert history.iterations.tolist() == [1, 4, 8, 10]
    assert history.classes.tolist() == list(CLASSES)
    assert history.palette.tolist() == [[0, 0, 255], [90, 90, 90], [200, 0, 0]]
    for record, (begin, end) in enumerate([(0, 1), (1, 4), (4, 8), (8, 10)]):
        for i in range(3):
            seen = [prototypes[i].numpy() for _, prototypes, present in steps[begin:end]
                    if present[i]]
            expected = np.mean(seen, axis=0) if seen else np.full(4, np.nan)
            np.testing.assert_allclose(history.prototypes[record, i], expected, atol=1e-6)
            for j in range(3):
                met = [float(relation[i, j]) for relation, _, present in steps[begin:end]
                       if present[i] and present[j]]
                assert history.steps[record, i, j] == len(met)
                np.testing.assert_allclose(
                    history.relations[record, i, j], np.mean(met) if met else np.nan, atol=1e-6)


def test_by_default_there_are_about_twenty_records(tmp_path):
    hook, runner = ClassRelationHook(), make_runner(tmp_path, max_iters=100)
    run(hook, runner, random_steps(100))
    assert ClassHistory.load(tmp_path).iterations.tolist() == [1, *range(5, 101, 5)]


def test_interruptions_leave_neither_a_gap_nor_a_duplicate(tmp_path):
    """The checkpoint is of iteration 5; the run was killed later, after a record more."""
    (tmp_path / 'whole').mkdir()
    steps, checkpoint = list(random_steps(9)), dict()
    whole, runner = ClassRelationHook(3), make_runner(tmp_path / 'whole', max_iters=9)
    run(whole, runner, steps)

    first, runner = ClassRelationHook(3), make_runner(tmp_path, max_iters=9)
    run(first, runner, steps[:5])
    first.before_save_checkpoint(runner, checkpoint)
    run(first, runner, steps[5:7])
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    assert ClassHistory.load(tmp_path).iterations.tolist() == [1, 3, 6]

    second, runner = ClassRelationHook(3), make_runner(tmp_path, resume=True, max_iters=9)
    second.after_load_checkpoint(
        runner, torch.load(tmp_path / 'checkpoint.pth', weights_only=True))
    runner.iter = 5
    run(second, runner, steps[5:])
    history, expected = ClassHistory.load(tmp_path), ClassHistory.load(tmp_path / 'whole')
    assert history.iterations.tolist() == [1, 3, 6, 9]
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(history, name), values)


def test_a_checkpoint_of_before_there_was_a_history_can_be_resumed(tmp_path):
    hook, runner = ClassRelationHook(3), make_runner(tmp_path, resume=True, max_iters=9)
    hook.after_load_checkpoint(
        runner, dict(class_relation=dict(total=torch.ones(3, 3), steps=torch.ones(3, 3))))
    runner.iter = 4
    run(hook, runner, random_steps(5))
    assert ClassHistory.load(tmp_path).iterations.tolist() == [5, 6, 9]


def test_pictures_come_with_validations_and_at_the_end(tmp_path):
    hook, runner = ClassRelationHook(2), make_runner(tmp_path, max_iters=5)
    hook.after_val_epoch(runner)  # before training there is nothing to see
    steps = list(random_steps(5))
    run(hook, runner, steps[:1])
    hook.after_val_epoch(runner)
    run(hook, runner, steps[1:])
    hook.after_train(runner)
    hook.after_val_epoch(runner)  # nor anything new after it
    names = {'class_relation', 'class_embeddings'}
    assert set(runner.visualizer.images) == {
        *((name, 1) for name in names), *((name, 5) for name in names),
        ('class_relation_history', 5)}
    for picture in runner.visualizer.images.values():
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.std() > 5
    assert not runner.logger


def test_what_cannot_be_drawn_or_written_does_not_end_the_run(tmp_path):
    hook, runner = ClassRelationHook(1), make_runner(tmp_path, max_iters=3)
    runner.train_dataloader.dataset.metainfo['classes'] = ('too', 'few')
    run(hook, runner, random_steps(3))
    hook.after_val_epoch(runner)
    assert len(runner.logger) == 1 and 'could not draw, training goes on' in runner.logger[0]
    runner.work_dir = str(tmp_path / 'class_history.npz')  # a file, not a folder
    hook.keep(runner, **{name: torch.as_tensor(value) for name, value in hook.records[-1].items()
                         if name != 'iterations'})
    assert len(runner.logger) == 2 and 'could not write its file' in runner.logger[1]


def test_a_burn_in_without_the_loss_is_waited_for(tmp_path):
    hook, runner = ClassRelationHook(2), make_runner(tmp_path, max_iters=8)
    run(hook, runner, [(None, None, None)] * 3)
    hook.before_save_checkpoint(runner, dict())
    hook.after_train(runner)
    assert not list(tmp_path.iterdir())
    run(hook, runner, random_steps(5))
    assert ClassHistory.load(tmp_path).iterations.tolist() == [4, 6, 8]


def test_a_bad_batch_does_not_spoil_the_sums():
    sums = RelationSums.empty(torch.zeros(2, 2), torch.zeros(2, 3))
    both = torch.tensor([True, True])
    sums.add(torch.tensor([[1, torch.nan], [torch.inf, torch.nan]]),
                torch.tensor([[1, 0, 0], [torch.nan, 1, 0]]), both)
    sums.add(torch.tensor([[1, 0.5], [0.5, 1]]), torch.tensor([[0, 1, 0], [0, 0, 1]]), both)
    assert sums.mean().tolist() == [[1, 0.5], [0.5, 1]]
    assert sums.steps.tolist() == [[2, 1], [1, 1]]
    assert sums.mean_prototypes().tolist() == [[0.5, 0.5, 0], [0, 0, 1]]


def test_loading_weights_does_not_bring_old_sums(tmp_path):
    first, runner, checkpoint = ClassRelationHook(), make_runner(tmp_path), dict()
    run(first, runner, random_steps(2))
    first.before_save_checkpoint(runner, checkpoint)
    hook, runner = ClassRelationHook(), make_runner(tmp_path)
    hook.after_load_checkpoint(runner, checkpoint)
    assert hook.sums is None and not hook.records


def test_a_model_without_reco_is_refused(tmp_path):
    runner = make_runner(tmp_path)
    runner.model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match='needs a ReCoLoss'):
        ClassRelationHook().before_train(runner)


def test_an_interval_that_is_none_is_refused():
    with pytest.raises(ValueError, match='ClassRelationHook: interval must be >= 1, got 0'):
        ClassRelationHook(interval=0)
