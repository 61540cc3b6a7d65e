# Licensed under the Apache License, Version 2.0.
import os.path as osp
from dataclasses import dataclass

import mmengine
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dist import master_only
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_reco.models import ReCoLoss
from mmseg_reco.visualization import (
    draw_class_embeddings,
    draw_class_relations,
    draw_relation_history,
)

from .history_hook import History, HistoryHook


class RelationAverage:
    """Means of class relation graphs and of prototypes, over the steps with these classes.

    Attributes:
        total (Tensor): Sum of cosines. Shape (C, C), float64.
        steps (Tensor): Steps in which both classes were present. Shape (C, C), float64.
        prototypes (Tensor): Sum of the classes' mean representations, each of unit length. Shape
            (C, D), float64.
    """

    def __init__(self, total: Tensor, steps: Tensor, prototypes: Tensor) -> None:
        self.total, self.steps, self.prototypes = total, steps, prototypes

    @classmethod
    def empty(cls, relation: Tensor, prototypes: Tensor) -> 'RelationAverage':
        """An average of nothing, of the shapes and device of a graph and of prototypes."""
        return cls(*(torch.zeros_like(like, dtype=torch.float64)
                     for like in (relation, relation, prototypes)))

    def add(self, relation: Tensor, prototypes: Tensor, present: Tensor) -> None:
        """Add the finite entries of a graph (C, C) and of prototypes (C, D), of classes (C,)."""
        both = present[:, None] & present[None] & relation.isfinite()
        self.total += relation.double().masked_fill(~both, 0)
        self.steps += both
        self.prototypes += prototypes.double().masked_fill(~both.diagonal()[:, None], 0)

    def since(self, earlier: 'RelationAverage') -> 'RelationAverage':
        """What was added after an earlier state."""
        return RelationAverage(self.total - earlier.total, self.steps - earlier.steps,
                               self.prototypes - earlier.prototypes)

    def mean(self) -> Tensor:
        """Mean cosine (C, C), float64; NaN for classes that never met."""
        return torch.where(self.steps > 0, self.total / self.steps.clamp_min(1), torch.nan)

    def mean_prototypes(self) -> Tensor:
        """Mean prototypes (C, D), float64; NaN for classes that were never present."""
        steps = self.steps.diagonal()[:, None]
        return torch.where(steps > 0, self.prototypes / steps.clamp_min(1), torch.nan)

    def state(self) -> dict[str, Tensor]:
        """The sums, on the CPU."""
        return {name: value.cpu().clone() for name, value in vars(self).items()}


@dataclass
class ClassHistory(History):
    """How classes were related, between each record and the one before.

    Attributes:
        relations (np.ndarray): Mean relation graphs; NaN where two classes never met. Shape
            (T, C, C), float32.
        steps (np.ndarray): Steps in which they met. Shape (T, C, C), int32.
        prototypes (np.ndarray): Mean prototypes; NaN where a class was absent. Shape (T, C, D),
            float32.
    """

    file_name = 'class_history.npz'

    relations: np.ndarray
    steps: np.ndarray
    prototypes: np.ndarray

    def mean(self) -> np.ndarray:
        """Relation graph (C, C) averaged over all steps; NaN for classes that never met."""
        steps = self.steps.sum(0)
        total = (np.nan_to_num(self.relations.astype(float)) * self.steps).sum(0)
        return np.where(steps > 0, total / np.maximum(steps, 1), np.nan)

    def draw(self) -> dict[str, Figure]:
        """The mean graph with its tree; how it moved, from two records on; and prototypes."""
        pictures = dict(class_relation=draw_class_relations(self.mean(), self.classes))
        if len(self.iterations) > 1:
            pictures['class_relation_history'] = draw_relation_history(
                self.iterations, self.relations, self.classes)
        if np.isfinite(self.prototypes).any():
            pictures['class_embeddings'] = draw_class_embeddings(
                self.iterations, self.prototypes, self.classes, self.palette)
        return pictures


@HOOKS.register_module()
class ClassRelationHook(HistoryHook):
    """Follows ReCo's class relation graph G and its prototypes, to see which classes are close.

    Kept in ``<work dir>/class_history.npz`` (:class:`ClassHistory`): at each record the means since
    the one before. Drawn from it, at each validation and at the end: the heat map of the graph
    averaged over training beside the tree of the classes, how the graph moved, and the paths of
    the prototypes. The average also stands in ``<work dir>/class_relation.json`` (``classes``,
    ``relation`` with null for classes that never met in a batch, ``steps``) after every checkpoint
    and at the end. In between, a step adds up on the device, without a synchronisation.

    Args:
        interval (int, optional): See :class:`HistoryHook`.
    """

    key = 'class_relation'

    def __init__(self, interval: int | None = None) -> None:
        super().__init__(interval)
        self.average: RelationAverage | None = None
        self._recorded: RelationAverage | None = None  # the average at the last record

    def _loss(self, runner: Runner) -> ReCoLoss:
        for module in runner.model.modules():
            if isinstance(module, ReCoLoss):
                return module
        raise TypeError('ClassRelationHook needs a ReCoLoss among the losses of the model')

    def before_train(self, runner: Runner) -> None:
        """Refuse a model without ReCo before training starts."""
        super().before_train(runner)
        self._loss(runner)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Add this step's graph, on the device; keep a record where one is due."""
        loss = self._loss(runner)
        if loss.relation is None:  # in the burn-in
            return
        if self.average is None:
            self.average = RelationAverage.empty(loss.relation, loss.prototypes)
            self._recorded = RelationAverage.empty(loss.relation, loss.prototypes)
        self.average.add(loss.relation, loss.prototypes, loss.present)
        if self.is_due(runner):
            recent = self.average.since(self._recorded)
            self._recorded = RelationAverage(**{
                name: value.clone() for name, value in vars(self.average).items()})
            self.keep(runner, relations=recent.mean().float(), steps=recent.steps.int(),
                      prototypes=recent.mean_prototypes().float())

    def history(self, runner: Runner) -> ClassHistory:
        """The records as they are written and drawn."""
        return ClassHistory(**self.arrays(runner, len(self.average.total)))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save records and sums; write the average out."""
        super().before_save_checkpoint(runner, checkpoint)
        if self.average is not None:
            checkpoint[self.key].update(
                self.average.state(), recorded=self._recorded.state())
            self._write(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on averaging where a resumed run stopped."""
        super().after_load_checkpoint(runner, checkpoint)
        saved = checkpoint.get(self.key, {})
        if runner._resume and 'recorded' in saved:
            device = next(runner.model.parameters()).device
            self.average, self._recorded = (
                RelationAverage(**{name: sums[name].to(device, copy=True)
                                   for name in ('total', 'steps', 'prototypes')})
                for sums in (saved, saved['recorded']))

    def after_train(self, runner: Runner) -> None:
        """Write and draw the final average."""
        super().after_train(runner)
        if self.average is not None:
            self._write(runner)

    @master_only
    def _write(self, runner: Runner) -> None:
        mean = self.average.mean().cpu()
        classes = runner.train_dataloader.dataset.metainfo.get('classes')
        mmengine.dump(
            dict(
                classes=list(classes or range(len(mean))),
                relation=[[None if value != value else value for value in row]
                          for row in mean.tolist()],
                steps=self.average.steps.cpu().tolist()),
            osp.join(runner.work_dir, 'class_relation.json'))
