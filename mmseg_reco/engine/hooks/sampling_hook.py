# Licensed under the Apache License, Version 2.0.
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import ConfigDict
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_reco.models import PseudoLabelLoss, ReCoLoss
from mmseg_reco.utils import check_probability, unwrap

#: Hyper-parameters that can be scheduled, and their types.
SCHEDULED = dict(
    num_queries=int,
    num_negatives=int,
    temperature=float,
    strong_threshold=float,
    weak_threshold=float)


def scheduled_value(points: Sequence[tuple[int, float]], step: int) -> float:
    """Value of a piecewise linear schedule.

    Args:
        points (Sequence[tuple[int, float]]): (iteration, value), by ascending iteration; constant
            before the first and after the last.
        step (int): Iteration.

    Returns:
        float: The value at that iteration.
    """
    iterations, values = zip(*points, strict=True)
    return float(np.interp(step, iterations, values))


def collect_diagnostics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what the modules of a model recorded in their last forward pass."""
    for module in model.modules():
        yield from vars(module).get('diagnostics', {}).items()  # getattr is slow where it fails


@HOOKS.register_module()
class SamplingHook(Hook):
    """Schedules ReCo's sampling and logs its statistics, without a synchronisation per step.

    Statistics (share of hard queries, classes present, negatives per class, share of confident
    pixels, pseudo-label accuracy where hidden truth is known) are summed on the device and read
    once an interval. Scalars join the training log; values per class go to the visualizer's
    backends alone.

    Args:
        schedules (dict): Hyper-parameter to [(iteration, value), ...], linear in between, for
            example ``dict(num_queries=[(0, 64), (5000, 256)])``. Knows ``num_queries``,
            ``num_negatives``, ``temperature``, ``strong_threshold`` (of ReCo and of the
            pseudo-label loss) and ``weak_threshold``.
        interval (int, optional): Iterations between log entries. Defaults to the logger's.

    Raises:
        ValueError: If a schedule names an unknown hyper-parameter or its iterations do not ascend.
    """

    def __init__(self, schedules: dict | None = None, interval: int | None = None) -> None:
        self.schedules = dict(schedules or {})
        for name, points in self.schedules.items():
            if name not in SCHEDULED:
                raise ValueError(f'SamplingHook cannot schedule "{name}"; it knows '
                                 f'{sorted(SCHEDULED)}')
            iterations = [point[0] for point in points]
            if not iterations or iterations != sorted(set(iterations)):
                raise ValueError(f'SamplingHook: iterations of the schedule of "{name}" must '
                                 f'ascend, got {iterations}')
        self.interval = interval
        self._sums: dict[str, Tensor] = dict()
        self._counts: Counter = Counter()

    def before_train(self, runner: Runner) -> None:
        """Find the logger's interval; refuse values out of range, and what nothing would follow.

        Raises:
            ValueError: A schedule has such a value, or no part of the model has what it sets.
        """
        if self.interval is None:
            self.interval = next(
                (hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 50)
        for name in self.schedules:
            if not any(hasattr(target, name) for target in self._targets(runner)):
                raise ValueError(f'SamplingHook: no part of the model has "{name}" to schedule')
        # in range between its points too, if it is at them
        for step in [point[0] for points in self.schedules.values() for point in points]:
            self._set(runner, step)
        self._set(runner, runner.iter)

    @staticmethod
    def _targets(runner: Runner) -> Iterator[nn.Module | ConfigDict]:
        model = unwrap(runner.model)
        if hasattr(model, 'semi_train_cfg'):
            yield model.semi_train_cfg
        for module in model.modules():
            if isinstance(module, (ReCoLoss, PseudoLabelLoss)):
                yield module

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """Set the scheduled hyper-parameters."""
        self._set(runner, runner.iter)

    def _set(self, runner: Runner, step: int) -> None:
        for name, points in self.schedules.items():
            value = scheduled_value(points, step)
            if name.endswith('threshold'):
                check_probability(f'SamplingHook: {name}', value)
            for target in self._targets(runner):
                if hasattr(target, name):
                    setattr(target, name, round(value) if SCHEDULED[name] is int else value)
                    if isinstance(target, ReCoLoss):
                        target.check()

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Add up; write the means once an interval."""
        for name, value in collect_diagnostics(runner.model):
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1
        if self.every_n_train_iters(runner, self.interval):
            self._write(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the sums of the interval that has begun."""
        checkpoint['sampling'] = dict(
            sums={name: value.cpu() for name, value in self._sums.items()},
            counts=dict(self._counts))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on adding up where a resumed run stopped."""
        if runner._resume and 'sampling' in checkpoint:
            device = next(runner.model.parameters()).device
            saved = checkpoint['sampling']
            self._sums = {name: value.to(device) for name, value in saved['sums'].items()}
            self._counts = Counter(saved['counts'])

    def _write(self, runner: Runner) -> None:
        names = list(self._sums)
        sizes = [self._sums[name].numel() for name in names]
        if names:
            # One copy to the host for all of them.
            flat = torch.cat([self._sums[name].flatten() / self._counts[name]
                              for name in names]).cpu()
            for name, values in zip(names, flat.split(sizes), strict=True):
                if self._sums[name].dim() == 0:
                    runner.message_hub.update_scalar(f'train/{name}', values.item())
                else:
                    classes = runner.train_dataloader.dataset.metainfo.get('classes')
                    labels = classes if classes else range(len(values))
                    runner.visualizer.add_scalars(
                        {f'{name}/{label}': value
                         for label, value in zip(labels, values.tolist(), strict=False)},
                        step=runner.iter + 1)
        self._sums.clear()
        self._counts.clear()
