# Licensed under the Apache License, Version 2.0.
from collections.abc import Iterator

import torch
import torch.nn as nn
from mmengine.dist import all_reduce_params
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_reco.engine.tensors import copy_tensors
from mmseg_reco.utils import is_batch_norm, unwrap

BUFFERS = ('copy', 'average')


def warmup_momentum(step: int, momentum: float) -> float:
    """Weight of the student in the average: max(1 / (step + 1), momentum).

    In the paper's terms the decay is min(1 - 1 / (step + 1), 1 - momentum): the teacher is the
    student after the first step and a plain average of its past until ``momentum`` is reached.

    Args:
        step (int): Training steps done before this one, >= 0.
        momentum (float): Final weight of the student, in (0, 1].
    """
    return max(1 / (step + 1), momentum)


def own_statistics(teacher: nn.Module, student: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """BN statistics that the teacher keeps itself, each with the student's.

    They are those of its BN in train mode.
    """
    return [pair
            for module, other in zip(teacher.modules(), student.modules(), strict=True)
            if is_batch_norm(module) and module.training
            for pair in zip(module.buffers(recurse=False), other.buffers(recurse=False),
                            strict=True)]


def statistics(student: nn.Module, teacher: nn.Module) -> Iterator[Tensor]:
    """All that differs between ranks without SyncBN."""
    yield from student.buffers()
    for statistic, _ in own_statistics(teacher, student):
        yield statistic


@torch.no_grad()
def update_teacher(student: nn.Module,
                   teacher: nn.Module,
                   momentum: float,
                   buffers: str = 'copy') -> None:
    """Move the teacher towards the student: teacher += momentum * (student - teacher).

    Statistics of BN in train mode stay the teacher's; those that are no longer finite, of which a
    running mean would never be rid, become the student's.

    Args:
        student (nn.Module): Source.
        teacher (nn.Module): Target, of the same structure; changed in place.
        momentum (float): In [0, 1]; 1 copies the student.
        buffers (str): Other BN statistics, and other buffers: 'copy' copies all, 'average' moves
            floating-point ones like parameters and copies the others.
    """
    averaged = list(zip(teacher.parameters(), student.parameters(), strict=True))
    copied = []
    own = own_statistics(teacher, student)
    kept = {id(statistic) for statistic, _ in own}
    for pair in zip(teacher.buffers(), student.buffers(), strict=True):
        if id(pair[0]) in kept:
            continue
        average = buffers == 'average' and pair[0].is_floating_point()
        (averaged if average else copied).append(pair)
    torch._foreach_lerp_(*map(list, zip(*averaged, strict=True)), momentum)
    if copied:
        copy_tensors(*zip(*copied, strict=True))
    _mend([pair for pair in own if pair[0].is_floating_point()])


def _mend(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Set what is not finite in the first of each pair, of one dimension, to the second's.

    In a few kernels for all of them, and without a look at them from the host.
    """
    if not pairs:
        return
    targets, sources = map(list, zip(*pairs, strict=True))
    joined = torch.cat(targets)
    mended = torch.where(joined.isfinite(), joined, torch.cat(sources))
    copy_tensors(targets, mended.split(list(map(len, targets))))


@HOOKS.register_module()
class MeanTeacherHook(Hook):
    """Keeps ``model.teacher`` the moving average of ``model.student`` (as in ReCo).

    Named and parametrised as mmdet's hook of that name, with two differences. The decay warms up
    (see :func:`warmup_momentum`). And the teacher has fitting BN statistics. Where its BN is in
    train mode (``semi_train_cfg.teacher_batch_stats=True``) they are its own, of what it labels,
    and are left alone. Else it gets the student's: with mmdet's default, ``skip_buffer=True``, they
    would stay at their initial values. Copied ones serve a young teacher better than averaged ones:
    averaged weights give smaller activations than the statistics of any student along the way. With
    several processes statistics are averaged over the ranks, so that all have the same teacher.

    Args:
        momentum (float): Weight of the student, in (0, 1]. The paper's decay of 0.99 is 0.01.
        interval (int): Iterations between updates, >= 1.
        warmup (bool): Whether the decay warms up.
        buffers (str): Of a teacher whose BN is in eval mode: 'copy' or 'average'; see
            :func:`update_teacher`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self,
                 momentum: float = 0.01,
                 interval: int = 1,
                 warmup: bool = True,
                 buffers: str = 'copy') -> None:
        if not 0 < momentum <= 1:
            raise ValueError('MeanTeacherHook: momentum is the weight of the student, in (0, 1] '
                             f'(0.01 for a decay of 0.99); got {momentum!r}')
        if interval < 1:
            raise ValueError(f'MeanTeacherHook: interval must be >= 1, got {interval!r}')
        if buffers not in BUFFERS:
            raise ValueError(f'MeanTeacherHook: buffers is one of {BUFFERS}, got {buffers!r}')
        self.momentum = momentum
        self.interval = interval
        self.warmup = warmup
        self.buffers = buffers

    @staticmethod
    def _model(runner: Runner) -> nn.Module:
        model = unwrap(runner.model)
        if not (hasattr(model, 'teacher') and hasattr(model, 'student')):
            raise TypeError(f'MeanTeacherHook needs a model with a student and a teacher, such as '
                            f'MeanTeacherReCo; got {type(model).__name__}. Remove the hook from '
                            'custom_hooks or wrap the model.')
        return model

    def before_train(self, runner: Runner) -> None:
        """Start both networks from the same weights."""
        model = self._model(runner)
        if runner.iter == 0:
            model.teacher.load_state_dict(model.student.state_dict())

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Update the teacher."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = self._model(runner)
        # Without SyncBN every rank has its own, but one teacher is due.
        all_reduce_params(statistics(model.student, model.teacher), op='mean')
        step = runner.iter // self.interval
        momentum = warmup_momentum(step, self.momentum) if self.warmup else self.momentum
        update_teacher(model.student, model.teacher, momentum, self.buffers)
