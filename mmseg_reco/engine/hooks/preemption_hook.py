# Licensed under the Apache License, Version 2.0.
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS
from torch.utils.data import DataLoader

#: Exit status of a run that stopped on a signal, to be resumed: EX_TEMPFAIL of sysexits.h.
EXIT_PREEMPTED = 75

SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGINT')
                if hasattr(signal, name))


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Stop in order on SIGTERM, SIGUSR1 or Ctrl-C: finish the iteration, write a checkpoint, exit.

    The status is :data:`EXIT_PREEMPTED`. A validation is broken off, and made up for on resume
    (:class:`~mmseg_reco.engine.runner.ResumableTrainLoop`). A second Ctrl-C quits at once.

    Several processes agree on the iteration: any of them may have got the signal. For that they
    exchange one number every ``interval`` iterations (of training and of validation) and stop
    there; one process alone stops at the next. With gradient accumulation they stop at an update.

    In mmengine's loop over epochs signals do what they do without this hook: a run cannot go on
    from the middle of an epoch.

    Args:
        interval (int): Iterations between the exchanges, >= 1. Fewer, where a signal leaves little
            time: ``interval`` iterations and a checkpoint have to fit.

    Raises:
        ValueError: If the interval is below 1.
    """

    priority = 'LOWEST'  # after the checkpoint of the same iteration, if one is due

    def __init__(self, interval: int = 10) -> None:
        if interval < 1:
            raise ValueError(f'PreemptionHook: interval must be >= 1, got {interval!r}')
        self.interval = interval
        self.signal: signal.Signals | None = None
        self._val_batches = 0
        self._previous: dict[signal.Signals, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Take the signals over from here on."""
        self.signal = None
        if threading.current_thread() is not threading.main_thread():
            return  # Python knows handlers in the main thread only
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            runner.logger.info('PreemptionHook leaves signals alone: training counts epochs.')
            return
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        detach_workers(runner.train_dataloader)
        if runner.val_loop is not None:
            detach_workers(runner.val_dataloader)

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # not print(): the signal may have come in the middle of one
        os.write(2, f'\n{self.signal.name}: stopping after this iteration, with a checkpoint. '
                 'Ctrl-C quits at once.\n'.encode())

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Leave, if a signal came."""
        if self._previous and self._agreed(runner, runner.iter + 1, runner.iter + 1):
            self._leave(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Find the number of batches that every rank has."""
        batches = torch.tensor(len(runner.val_dataloader))
        all_reduce(batches, 'min')
        self._val_batches = int(batches)

    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: dict | None = None,
                       outputs: Any = None) -> None:
        """Leave, if a signal came during training."""
        if self._previous and batch_idx < self._val_batches and self._agreed(
                runner, runner.iter, batch_idx + 1):
            self._leave(runner, runner.iter)

    def _agreed(self, runner: Runner, done: int, count: int) -> bool:
        """Whether all ranks stop here, after ``done`` iterations of training."""
        if done % getattr(runner.optim_wrapper, '_accumulative_counts', 1):
            return False
        if get_world_size() == 1:
            return self.signal is not None
        if count % self.interval:
            return False
        stop = torch.tensor(int(self.signal is not None))
        all_reduce(stop, 'max')
        return bool(stop)

    def _leave(self, runner: Runner, step: int) -> None:
        """Write the checkpoint of this step, unless it is there, and exit.

        Raises:
            SystemExit: With :data:`EXIT_PREEMPTED`.
        """
        hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if hook is None:
            runner.logger.warning('There is no CheckpointHook: this run cannot be resumed.')
        else:
            path = hook.file_backend.join_path(hook.out_dir, hook.filename_tmpl.format(step))
            if hook.last_ckpt != path:
                hook._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=step))
            runner.logger.info(f'Stopped after {step} iterations; --resume goes on from {path}.')
        barrier()  # a rank that exits early may have the others killed before all is written
        raise SystemExit(EXIT_PREEMPTED)


def detach_workers(loader: DataLoader) -> None:
    """Keep signals to this process's group, as of a terminal or of torchrun, from its workers.

    A worker that ends takes the run with it, before it has written anything.
    """
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)


def _start_worker(worker_init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    if hasattr(os, 'setpgrp'):
        os.setpgrp()
    if worker_init_fn is not None:
        worker_init_fn(worker_id)
