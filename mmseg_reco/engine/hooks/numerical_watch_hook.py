# Licensed under the Apache License, Version 2.0.
import math
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.structures import BaseDataElement
from mmseg.registry import HOOKS
from torch import Tensor
from torch.optim import Optimizer

from mmseg_reco.engine.tensors import copy_tensors
from mmseg_reco.utils import unwrap

ACTIONS = ('stop', 'skip')


@HOOKS.register_module()
class NumericalWatchHook(Hook):
    """Stop training on a loss that is not finite, or skip its step, and say which loss it was.

    The message names the terms and the images of the batch. What is not finite never reaches the
    teacher or a checkpoint: with 'stop' the run ends before, and no checkpoint is written whose
    weights or BN statistics are not finite, whichever rank the number came from.

    'stop' costs nothing: mmengine's RuntimeInfoHook has read every loss for the log, with one
    synchronisation for each, when this hook looks at what it has read, after the optimizer's step.

    'skip' must know before that step. It looks at the gradients, which all ranks have in common
    once they are reduced: they agree without a message. That takes one synchronisation of its own,
    as mixed precision does, and a copy of the buffers, such as BN statistics, which a bad batch
    has reached by then. The optimizer leaves weights and momentum alone in that step, and
    ``skipped_iters`` in the message hub, in the log and in checkpoints, is one higher.

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
        self._skipped = False
        self._buffers: list[Tensor] = []
        self._copies: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Stand before the optimizer's step, where steps are to be skipped."""
        if self.action == 'stop':
            return
        self._buffers = list(runner.model.buffers())
        self._copies = [buffer.clone() for buffer in self._buffers]
        wrapper = runner.optim_wrapper
        for part in wrapper.values() if isinstance(wrapper, dict) else [wrapper]:
            part.optimizer.register_step_pre_hook(self._before_step)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """Keep the buffers, where steps are to be skipped."""
        self._skipped = False
        if self._copies:
            copy_tensors(self._copies, self._buffers)

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        gradients = [parameter.grad for group in optimizer.param_groups
                     for parameter in group['params'] if parameter.grad is not None]
        if gradients and not all_finite(gradients):
            self._skipped = True
            optimizer.zero_grad(set_to_none=True)  # a parameter without gradient is not touched

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
        if self._copies:
            copy_tensors(self._buffers, self._copies)
        count = hub.get_info('skipped_iters', 0) + 1
        hub.update_info('skipped_iters', count)
        runner.logger.warning(f'{text} Skipped; {count} so far.')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save weights or BN statistics that are not finite.

        Raises:
            FloatingPointError: Some are.
        """
        model = unwrap(runner.model)
        saved = [*model.named_parameters(), *(
            item for item in model.named_buffers()
            if item[0].endswith(('running_mean', 'running_var')))]
        bad = [name for name, tensor in saved if not all_finite([tensor])]
        if bad:
            raise FloatingPointError(
                f'{len(bad)} weights or BN statistics are no longer finite, the first is {bad[0]}: '
                'no checkpoint is written. The last one is '
                f'{find_latest_checkpoint(runner.work_dir)}.')


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether all elements are finite; reads one number from the device."""
    norms = torch._foreach_norm(tensors, math.inf)
    return bool(torch.stack([norm.float() for norm in norms]).isfinite().all())


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
    what = f'not finite: {terms}' if bad else 'the gradients are not finite, the losses here are'
    return f'Iteration {iteration}: {what}. Images: {", ".join(images) or "unknown"}.'
