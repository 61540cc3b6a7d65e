# Licensed under the Apache License, Version 2.0.
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from gloo import run_ranks

from mmseg_reco.engine import MeanTeacherHook
from mmseg_reco.engine.hooks.mean_teacher_hook import update_teacher, warmup_momentum


def network(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    net.train()(torch.randn(5, 3, 6, 6) * (seed + 1) + seed)  # moves the BN statistics
    return net


def pair():
    model = nn.Module()
    model.student, model.teacher = network(0), network(1).eval()
    return model


@pytest.mark.parametrize('buffers', ['copy', 'average'])
def test_momentum_one_makes_the_teacher_equal_in_eval_mode(buffers):
    """The trap of averaging parameters alone: BN statistics must follow."""
    model = pair()
    update_teacher(model.student, model.teacher, 1, buffers)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        model.teacher.eval()(images), model.student.eval()(images), rtol=0, atol=0)
    assert model.teacher[1].num_batches_tracked == model.student[1].num_batches_tracked


def test_update_is_the_written_average():
    model = pair()
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    update_teacher(model.student, model.teacher, 0.25, 'average')
    student = model.student.state_dict()
    for name, value in model.teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * student[name])
        else:
            assert value == student[name]


def test_buffers_can_be_copied():
    model = pair()
    update_teacher(model.student, model.teacher, 0.25, 'copy')
    torch.testing.assert_close(
        model.teacher[1].running_mean, model.student[1].running_mean, rtol=0, atol=0)


def test_warm_up_is_the_papers_decay():
    for step in range(300):
        decay = min(1 - 1 / (step + 1), 0.99)
        assert 1 - warmup_momentum(step, 0.01) == pytest.approx(decay)


def test_hook_follows_the_student_over_steps():
    """Against a plain scalar recursion."""
    model = pair()
    hook = MeanTeacherHook(momentum=0.2)
    runner = SimpleNamespace(model=model, iter=0)
    hook.before_train(runner)
    weight = model.student[0].weight
    expected = weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            weight += 0.1 * torch.randn_like(weight)
        runner.iter = step
        hook.after_train_iter(runner, step)
        momentum = max(1 / (step + 1), 0.2)
        expected = (1 - momentum) * expected + momentum * weight.detach()
    torch.testing.assert_close(model.teacher[0].weight.detach(), expected)


def test_at_the_start_the_teacher_is_the_student():
    """Whatever mode it is in."""
    model = pair()
    model.teacher.train()
    MeanTeacherHook().before_train(SimpleNamespace(model=model, iter=0))
    theirs = model.teacher.state_dict()
    assert all(torch.equal(value, theirs[name])
               for name, value in model.student.state_dict().items())


def test_resuming_does_not_reset_the_teacher():
    model = pair()
    before = model.teacher[0].weight.clone()
    MeanTeacherHook().before_train(SimpleNamespace(model=model, iter=7))
    torch.testing.assert_close(model.teacher[0].weight, before, rtol=0, atol=0)


def test_interval():
    model, hook = pair(), MeanTeacherHook(momentum=1, interval=2)
    before = model.teacher[0].weight.clone()
    hook.after_train_iter(SimpleNamespace(model=model, iter=0), 0)
    torch.testing.assert_close(model.teacher[0].weight, before, rtol=0, atol=0)
    hook.after_train_iter(SimpleNamespace(model=model, iter=1), 1)
    torch.testing.assert_close(model.teacher[0].weight, model.student[0].weight, rtol=0, atol=0)


def test_warm_up_counts_updates():
    """Also with an interval the teacher is the student after the first of them."""
    model, hook = pair(), MeanTeacherHook(momentum=0.01, interval=3)
    hook.after_train_iter(SimpleNamespace(model=model, iter=2), 2)
    torch.testing.assert_close(model.teacher[0].weight, model.student[0].weight, rtol=0, atol=0)


@pytest.mark.parametrize('buffers', ['copy', 'average'])
def test_statistics_of_its_own_are_left_alone(buffers):
    """Its parameters move, and what is the student's stays the student's."""
    model = pair()
    model.teacher.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    MeanTeacherHook(momentum=0.25, buffers=buffers).after_train_iter(
        SimpleNamespace(model=model, iter=50), 50)
    for name, value in model.state_dict().items():
        if name.startswith('teacher') and name in dict(model.named_parameters()):
            student = before[name.replace('teacher', 'student')]
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * student)
        else:
            assert torch.equal(value, before[name])


@pytest.mark.parametrize('value', [torch.inf, -torch.inf, torch.nan])
def test_statistics_that_are_not_finite_become_the_students(value):
    """In place, channel by channel."""
    model = pair()
    norm, other = model.teacher.train()[1], model.student[1]
    expected = norm.running_var.clone()
    expected[2] = other.running_var[2]
    mean = norm.running_mean.clone()
    norm.running_var[2] = value
    update_teacher(model.student, model.teacher, 0.25)
    assert torch.equal(norm.running_var, expected) and torch.equal(norm.running_mean, mean)


def statistics_of_rank(rank, training):
    model = pair()
    model.teacher.train(training)
    for network in (model.student, model.teacher):
        network.append(nn.BatchNorm2d(2))
        for norm in (network[1], network[3]):
            norm.running_mean.fill_(rank + (network is model.teacher))
    model.teacher[3].eval()  # sees nothing
    MeanTeacherHook().after_train_iter(SimpleNamespace(model=model, iter=0), 0)
    return [norm.running_mean for norm in (model.teacher[1], model.teacher[3])]


@pytest.mark.parametrize('training', [False, True])
def test_statistics_are_the_mean_over_ranks(training):
    for mean, idle in run_ranks(statistics_of_rank, training):
        assert (mean == 0.5 + training).all() and (idle == 0.5).all()


@pytest.mark.parametrize('argument, message', [
    (dict(momentum=0), 'momentum.*got 0'),
    (dict(momentum=1.1), 'momentum'),
    (dict(interval=0), 'interval'),
    (dict(buffers='both'), "got 'both'"),
    (dict(buffers='skip'), "buffers is one of .*'copy', 'average'.*got 'skip'"),
])
def test_bad_arguments_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        MeanTeacherHook(**argument)


def test_a_model_without_teacher_is_refused():
    with pytest.raises(TypeError, match='Conv2d.*Remove the hook'):
        MeanTeacherHook().before_train(SimpleNamespace(model=nn.Conv2d(1, 1, 1), iter=0))
