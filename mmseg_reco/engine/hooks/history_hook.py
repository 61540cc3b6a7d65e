# Licensed under the Apache License, Version 2.0.
import os.path as osp
from dataclasses import dataclass
from typing import ClassVar, TypeVar
from zipfile import BadZipFile

import numpy as np
from matplotlib.figure import Figure
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmseg_reco.datasets.files import whole_file
from mmseg_reco.visualization import figure_to_rgb

from .observing import harmless

_History = TypeVar('_History', bound='History')


@dataclass
class History:
    """What a :class:`HistoryHook` kept, as it stands in a file of the work directory.

    Attributes:
        classes (np.ndarray): Names. Shape (C,).
        palette (np.ndarray): RGB, 0-255. Shape (C, 3).
        iterations (np.ndarray): Training iterations done at each of T records. Shape (T,).
    """

    file_name: ClassVar[str]

    classes: np.ndarray
    palette: np.ndarray
    iterations: np.ndarray

    def save(self, work_dir: str) -> None:
        """Write the file, whole or not at all."""
        with whole_file(osp.join(work_dir, self.file_name)) as partial, open(partial, 'wb') as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls: type[_History], work_dir: str) -> _History:
        """Read the file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged, or holds something else.
        """
        path = osp.join(work_dir, cls.file_name)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**arrays)
        except (BadZipFile, EOFError, TypeError, ValueError) as error:
            raise ValueError(f'{path} cannot be read ({error}): it is damaged, or not a file that '
                             f'a hook wrote as {cls.__name__}.') from error

    def draw(self) -> dict[str, Figure]:
        """Draw pictures, by name."""
        raise NotImplementedError


class HistoryHook(Hook):
    """Keeps records over training: in checkpoints, in one file, and as pictures.

    The first record comes as soon as there is something to record, the others at an interval and at
    the end. They
    are part of every checkpoint, so that a resumed run has those that led to it, once each; the
    file in the work directory is written anew from them. The pictures, drawn by the main process
    whenever a validation ends and at the end of training, go to the visualizer's backends. Neither
    a file nor a picture that fails ends the run: the log says what failed.

    Args:
        interval (int, optional): Iterations between records, >= 1. Defaults to a twentieth of
            training.

    Raises:
        ValueError: If the interval is not positive.
    """

    priority = 'LOW'  # after the teacher has moved, before a checkpoint is written

    #: Name in checkpoints.
    key: str

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f'{type(self).__name__}: interval must be >= 1, got {interval!r}')
        self.interval = interval
        self.records: list[dict[str, int | Tensor]] = []
        self._drawn = 0

    def history(self, runner: Runner) -> History:
        """The records as they are written and drawn; there is at least one."""
        raise NotImplementedError

    def arrays(self, runner: Runner, num_classes: int) -> dict[str, np.ndarray]:
        """Arguments of the history: all records stacked, and what classes are called."""
        meta = runner.train_dataloader.dataset.metainfo
        stacked = {name: np.stack([np.asarray(record[name]) for record in self.records])
                   for name in self.records[0]}
        return dict(
            stacked,
            classes=np.array([str(name) for name in meta.get('classes') or range(num_classes)]),
            palette=np.array(meta.get('palette') or [(128, 128, 128)] * num_classes, np.uint8))

    def before_train(self, runner: Runner) -> None:
        """Choose the interval where none is given."""
        if self.interval is None:
            self.interval = max(1, runner.max_iters // 20)

    def is_due(self, runner: Runner) -> bool:
        """Whether this iteration gets a record."""
        return (not self.records or self.every_n_train_iters(runner, self.interval)
                or self.is_last_train_iter(runner))

    def keep(self, runner: Runner, **values: Tensor) -> None:
        """Add a record of this iteration and write the file."""
        self.records.append(dict(
            iterations=runner.iter + 1,
            **{name: value.cpu() for name, value in values.items()}))
        self._save(runner)

    @master_only
    def _save(self, runner: Runner) -> None:
        with harmless(runner, f'{type(self).__name__} could not write its file'):
            self.history(runner).save(runner.work_dir)

    @master_only
    def _draw(self, runner: Runner) -> None:
        if not self.records or self.records[-1]['iterations'] == self._drawn:
            return
        self._drawn = self.records[-1]['iterations']
        with harmless(runner, f'{type(self).__name__} could not draw'):
            for name, figure in self.history(runner).draw().items():
                runner.visualizer.add_image(name, figure_to_rgb(figure), step=self._drawn)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Draw what there is."""
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw what has come since."""
        self._draw(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the records."""
        checkpoint.setdefault(self.key, {})['records'] = list(self.records)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on after the last record of the run that is resumed."""
        if runner._resume:
            self.records = [
                {name: value.cpu() if isinstance(value, Tensor) else value
                 for name, value in record.items()}
                for record in checkpoint.get(self.key, {}).get('records', [])
            ]
