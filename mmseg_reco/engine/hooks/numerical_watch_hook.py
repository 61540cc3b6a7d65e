# Licensed under the Apache License, Version 2.0.
import math
from collections.abc import Iterator
from functools import wraps
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.structures import BaseDataElement
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_reco.engine.tensors import copy_tensors
from mmseg_reco.utils import unwrap

from .safe_checkpoint_hook import SafeCheckpointHook

ACTIONS = ('stop', 'skip')


@HOOKS.register_module()
class NumericalWatchHook(Hook):
    """Stop training on a loss that is not finite, or skip its step, and say which loss it was.

    The message names the terms and the images of the batch. What is not finite never reaches the
    teacher or a checkpoint: with 'stop' the run ends before, and no checkpoint is written whose
    weights or BN statistics are not finite, whichever rank the number came from.

    'stop' costs nothing: mmengine's RuntimeInfoHook has read every loss for the log, with one
    synchronisation for each, when this hook looks at what it has read, after the optimizer's step.

    'skip' must know before that step. It looks at the losses and at the gradients; ranks exchange
    one number on the device, so that they agree. That takes one synchronisation of its own, as
    mixed precision does, and a copy of the buffers, such as BN statistics, which a bad batch has
    reached by then. A step is left out if a loss or a gradient is not finite on any rank, and in
    any of the batches whose gradients it accumulates: weights and momentum stay, buffers go back to
    what they were, and ``skipped_iters`` in the message hub, in the log and in checkpoints, is one
    higher. Gradients that overflow in mixed precision, with finite losses, are not counted: its
    loss scaling leaves such steps out, and learns from them.

    Args:
        action (str): 'stop' or 'skip'.

    Raises:
        ValueError: If the action is neither.
    """

    priority = 'HIGH'  # after RuntimeInfoHook has read the losses, before the teacher moves

    def __init__(self, action: str = 'stop') -> None:
        if action not in ACTIONS:
            raise ValueError(f'NumericalWatchHook: action is one of {ACTIONS}, got {action!r}')
        self.action = action
        self._losses: list[Tensor] = []  # of the batches of this update
        self._updated, self._skipped = True, False
        self._buffers: list[Tensor] = []
        self._copies: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Stand before the optimizer's step, where steps are to be skipped."""
        if self.action == 'stop':
            return
        self._buffers = list(runner.model.buffers())
        self._copies = [buffer.clone() for buffer in self._buffers]
        wrapper = runner.optim_wrapper
        for part in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            self._watch(part)

    def _watch(self, wrapper: OptimWrapper) -> None:
        """Let a wrapper make a step if losses and gradients are finite, on all ranks or on none."""
        backward, step = wrapper.backward, wrapper.step

        def note_and_backward(loss: Tensor, **kwargs) -> None:
            self._losses.append(loss.detach())
            backward(loss, **kwargs)

        @wraps(step)  # with the mark by which schedulers know that they count it
        def step_if_finite(**kwargs) -> None:
            watched = list(self._losses)
            scaler = getattr(wrapper, 'loss_scaler', None)
            if scaler is None or not scaler.is_enabled():  # else it looks at the gradients itself
                watched += [parameter.grad for group in wrapper.param_groups
                            for parameter in group['params'] if parameter.grad is not None]
            finite = all_finite(watched).int()
            all_reduce(finite, 'min')
            self._updated = True
            if finite:
                step(**kwargs)
            else:
                self._skipped = True

        wrapper.backward, wrapper.step = note_and_backward, step_if_finite

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """Keep the buffers, where the first batch of an update comes."""
        if self._updated:
            self._updated = self._skipped = False
            self._losses.clear()
            copy_tensors(self._copies, self._buffers)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Look at what the log has read.

        Raises:
            FloatingPointError: A loss is not finite, and the action is 'stop'.
        """
        hub = runner.message_hub
        bad = {}
        for name in outputs or ():
            value = hub.get_scalar(f'train/{name}').current() if 'loss' in name else 0.
            if not math.isfinite(value):
                bad[name] = value
        if not bad and not self._skipped:
            return
        text = describe(runner.iter + 1, bad, sorted(set(image_paths(data_batch))))
        if self.action == 'stop':
            raise FloatingPointError(
                f'{text} A lower learning rate, clip_grad, or a look at these images '
                "(tools/check_data.py) may help; NumericalWatchHook(action='skip') goes on "
                'without such batches.')
        copy_tensors(self._buffers, self._copies)
        if self._skipped:  # not yet, where the update is still to come
            count = hub.get_info('skipped_iters', 0) + 1
            hub.update_info('skipped_iters', count)
            text = f'{text} Skipped; {count} so far.'
        runner.logger.warning(text)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save weights or BN statistics that are not finite.

        Raises:
            FloatingPointError: Some are.
        """
        model = unwrap(runner.model)
        buffers = [*model.named_buffers()]
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook):
                buffers += [(f'rank {rank}: {name}', buffer)
                            for rank, own in enumerate(hook.buffers_of_ranks)
                            for name, buffer in own.items()]
        saved = [*model.named_parameters(), *(
            item for item in buffers if item[0].endswith(('running_mean', 'running_var')))]
        bad = [name for name, tensor in saved if not all_finite([tensor])]
        if bad:
            raise FloatingPointError(
                f'{len(bad)} weights or BN statistics are no longer finite, the first is {bad[0]}: '
                'no checkpoint is written. The last one is '
                f'{find_latest_checkpoint(runner.work_dir)}.')


def all_finite(tensors: list[Tensor]) -> Tensor:
    """Whether all elements are finite, as a scalar on the device."""
    norms = torch._foreach_norm(tensors, math.inf)
    return torch.stack([norm.float() for norm in norms]).isfinite().all()


def image_paths(data: Any) -> Iterator[str]:
    """Paths of the images in a batch, which may have branches."""
    if isinstance(data, BaseDataElement):
        yield str(data.get('img_path', 'an image without a path'))
    elif isinstance(data, dict):
        for value in data.values():
            yield from image_paths(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from image_paths(value)


def describe(iteration: int, bad: dict[str, float], images: list[str]) -> str:
    """Say which losses are not finite, and on which images."""
    terms = ', '.join(f'{name} = {value}' for name, value in bad.items())
    what = terms or 'a gradient, or a loss of another process or of an earlier batch of this update'
    return f'Iteration {iteration}: not finite: {what}. Images: {", ".join(images) or "unknown"}.'
