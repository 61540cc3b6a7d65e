# Licensed under the Apache License, Version 2.0.
import logging
import os.path as osp
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.fileio import BaseStorageBackend, join_path
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_reco.engine.checkpoint import (
    AtomicLocalBackend,
    check_fits,
    drop_config,
    pack_history,
    remove_partial_files,
    to_plain,
    unpack_history,
)
from mmseg_reco.utils import unwrap


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with checkpoints that any torch reads and resumes from.

    The message hub (log history, best score, names of kept files) and the meta data are stored as
    plain numbers, lists and tensors, so that ``torch.load(weights_only=True)``, the default since
    torch 2.6, accepts the file, and are rebuilt on load. Buffers in which the ranks differ, such
    as the statistics of BN, are stored for each rank.

    At no moment is a run without a complete checkpoint, once it has written the first: local
    files are written atomically, ``last_checkpoint`` names a file after it is complete, and files
    that are no longer to be kept are removed after that.

    Args:
        **kwargs: Of :class:`mmengine.hooks.CheckpointHook`.
    """

    #: Of the checkpoint that is being written; see :func:`gather_buffers`.
    buffers_of_ranks: list[dict[str, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Choose the atomic file backend where checkpoints go to a local directory."""
        local = '://' not in str(self.out_dir or runner.work_dir)
        if self.backend_args is None and local:
            self.backend_args = dict(backend='atomic_local')
        super().before_train(runner)
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')  # of a resumed run
        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = self._own(self.best_ckpt_path)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = self._own(path)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)  # for a moment it holds one more
        if local and is_main_process():
            remove_partial_files(self.out_dir)
        window = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if not self.by_epoch and self.interval > 0 and self.interval % window:
            runner.logger.warning(
                f'Checkpoints every {self.interval} iterations fall between the updates every '
                f'{window}: gradients accumulated until then are lost on resume. Make the interval '
                f'a multiple of {window}.')

    def _own(self, path: str | None) -> str | None:
        """The file of this name in the folder of this run; None if there is none.

        A resumed run may have been moved, or begin with the checkpoint of another one, whose best
        checkpoint is not to be removed.
        """
        own = self.file_backend.join_path(self.out_dir, osp.basename(path or ''))
        return own if path and self.file_backend.isfile(own) else None

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write a checkpoint, say that it is the last one, remove what is not to be kept."""
        if isinstance(self.file_backend, _LateRemoval):
            self._remove_previous_best()  # a new one has just been written
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        hub = runner.message_hub
        hub.update_info('last_ckpt', self.last_ckpt)
        if self.max_keep_ckpts > 0:
            if step not in self.keep_ckpt_ids:
                self.keep_ckpt_ids.append(step)
            # The one that has to go is still among them: who resumes from here removes it.
            hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        self.buffers_of_ranks = gather_buffers(runner.model)
        with _saying_how_to_go_on():
            runner.save_checkpoint(
                self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                backend_args=self.backend_args, **self.args)
            if is_main_process():
                AtomicLocalBackend().put_text(
                    self.last_ckpt, join_path(runner.work_dir, 'last_checkpoint'))
        self.buffers_of_ranks = []

        if self.max_keep_ckpts > 0:
            while len(self.keep_ckpt_ids) > self.max_keep_ckpts:
                old = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                self._remove(self.file_backend.join_path(self.out_dir, old))
            hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Write the best checkpoint; the previous one goes when the new one is there."""
        backend, self.file_backend = self.file_backend, _LateRemoval(self.file_backend)
        try:
            with _saying_how_to_go_on():
                super()._save_best_checkpoint(runner, metrics)
            self._remove_previous_best()
        finally:
            self.file_backend = backend

    def _remove_previous_best(self) -> None:
        best = [getattr(self, 'best_ckpt_path', None),
                *getattr(self, 'best_ckpt_path_dict', {}).values()]
        self.file_backend.flush(keep=best)  # the new one may have the name of the previous

    def _remove(self, path: str) -> None:
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Note, also in a checkpoint written now, that this iteration has been validated."""
        runner.message_hub.update_info('last_validation', runner.iter)
        super().after_val_epoch(runner, metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace everything but the weights by plain values, in place."""
        checkpoint['meta']['world_size'] = get_world_size()
        if any(self.buffers_of_ranks):
            checkpoint['buffers_of_ranks'] = self.buffers_of_ranks
        hub = checkpoint['message_hub']
        hub['log_scalars'] = {name: pack_history(b) for name, b in hub['log_scalars'].items()}
        for key, value in checkpoint.items():
            if key != 'state_dict':
                checkpoint[key] = to_plain(value, key)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse what does not fit, and rebuild the log history.

        A stock checkpoint, or bare weights, passes unchanged but for the text of its config.

        Raises:
            ValueError: The checkpoint is of another method or number of classes.
        """
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        # weights that only start a training may fit in part
        partly = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        check_fits(checkpoint, model, f'The checkpoint {runner._load_from or ""}'.rstrip(), partly)
        drop_config(checkpoint)
        if runner._resume:
            restore_buffers(checkpoint)
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, value in scalars.items():
            if not isinstance(value, HistoryBuffer):
                scalars[name] = unpack_history(value)


@contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f'{error}. Checkpoints written before are intact: make room, then go on from '
                      'the last one with --resume.') from error


class _LateRemoval:
    """A file backend that removes files only when it is told to."""

    def __init__(self, backend: BaseStorageBackend) -> None:
        self._backend, self._outdated = backend, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._outdated.append(path)

    def flush(self, keep: Collection[str | None]) -> None:
        while self._outdated:
            path = self._outdated.pop()
            if path not in keep:
                self._backend.remove(path)


def gather_buffers(model: nn.Module) -> list[dict[str, Tensor]]:
    """Buffers in which the ranks differ, as they do in BN statistics without SyncBN.

    Args:
        model (nn.Module): The model of this rank, in a wrapper or not.

    Returns:
        list[dict[str, Tensor]]: For every rank its buffers that are not those of rank 0, by name,
        on the CPU; empty with one process.
    """
    if get_world_size() == 1:
        return []
    model = unwrap(model)
    saved = model.state_dict().keys()
    everyone = all_gather_object(
        {name: buffer.cpu() for name, buffer in model.named_buffers() if name in saved})
    return [{name: buffer for name, buffer in theirs.items()
             if not torch.equal(buffer, everyone[0][name])} for theirs in everyone]


def restore_buffers(checkpoint: dict) -> None:
    """Give this rank its own buffers back, in place; see :func:`gather_buffers`."""
    ranks = checkpoint.pop('buffers_of_ranks', [])
    then, now = checkpoint.get('meta', {}).get('world_size'), get_world_size()
    if then not in (None, now):
        print_log(f'The checkpoint is of a run in {then} process(es), this one has {now}: training '
                  'goes on, but with other batches than it would have had.',
                  logger='current', level=logging.WARNING)
    elif ranks:
        checkpoint['state_dict'].update(ranks[get_rank()])
