# Licensed under the Apache License, Version 2.0.
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn

from mmseg_reco.engine import ClassRelationHook
from mmseg_reco.engine.hooks.class_relation_hook import RelationAverage
from mmseg_reco.models import ReCoLoss


def make_runner(tmp_path, resume=False):
    model = nn.ModuleList([ReCoLoss(), nn.Linear(1, 1)])
    dataset = SimpleNamespace(metainfo=dict(classes=('sky', 'road', 'car')))
    return SimpleNamespace(
        model=model, iter=0, work_dir=str(tmp_path), _resume=resume,
        train_dataloader=SimpleNamespace(dataset=dataset))


def random_steps(num):
    generator = torch.Generator().manual_seed(0)
    for _ in range(num):
        relation = torch.rand(3, 3, generator=generator)
        yield (relation + relation.T) / 2, torch.rand(3, generator=generator) < 0.6


def run(hook, runner, steps):
    for relation, present in steps:
        runner.model[0].relation, runner.model[0].present = relation, present
        hook.after_train_iter(runner, 0)


def test_average_is_over_steps_in_which_both_classes_were_present(tmp_path):
    hook, runner, steps = ClassRelationHook(), make_runner(tmp_path), list(random_steps(6))
    hook.before_train(runner)
    run(hook, runner, steps)
    hook.after_train(runner)
    result = json.loads((tmp_path / 'class_relation.json').read_text())
    assert result['classes'] == ['sky', 'road', 'car']
    for i in range(3):
        for j in range(3):
            met = [float(relation[i, j]) for relation, present in steps
                   if present[i] and present[j]]
            assert result['steps'][i][j] == len(met)
            assert result['relation'][i][j] == pytest.approx(np.mean(met))


def test_classes_that_never_met_are_null(tmp_path):
    hook, runner = ClassRelationHook(), make_runner(tmp_path)
    run(hook, runner, [(torch.eye(3), torch.tensor([True, True, False]))])
    hook.after_train(runner)
    relation = json.loads((tmp_path / 'class_relation.json').read_text())['relation']
    assert relation == [[1, 0, None], [0, 1, None], [None, None, None]]


def test_average_survives_an_interruption(tmp_path):
    steps, checkpoint = list(random_steps(8)), dict()
    whole, runner = ClassRelationHook(), make_runner(tmp_path)
    run(whole, runner, steps)

    first = ClassRelationHook()
    run(first, runner, steps[:5])
    first.before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    second, runner = ClassRelationHook(), make_runner(tmp_path, resume=True)
    second.after_load_checkpoint(
        runner, torch.load(tmp_path / 'checkpoint.pth', weights_only=True))
    run(second, runner, steps[5:])
    torch.testing.assert_close(second.average.mean(), whole.average.mean(), equal_nan=True)


def test_a_bad_batch_does_not_spoil_the_average():
    average = RelationAverage.empty(torch.zeros(2, 2))
    average.add(torch.tensor([[1, torch.nan], [torch.inf, 1]]), torch.tensor([True, True]))
    average.add(torch.tensor([[1, 0.5], [0.5, 1]]), torch.tensor([True, True]))
    assert average.mean().tolist() == [[1, 0.5], [0.5, 1]]
    assert average.steps.tolist() == [[2, 1], [1, 2]]


def test_loading_weights_does_not_bring_an_old_average(tmp_path):
    hook, runner = ClassRelationHook(), make_runner(tmp_path)
    hook.after_load_checkpoint(
        runner, dict(class_relation=dict(total=torch.ones(3, 3), steps=torch.ones(3, 3))))
    assert hook.average is None


def test_a_model_without_reco_is_refused(tmp_path):
    runner = make_runner(tmp_path)
    runner.model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match='needs a ReCoLoss'):
        ClassRelationHook().before_train(runner)
