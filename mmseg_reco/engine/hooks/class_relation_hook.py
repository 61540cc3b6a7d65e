# Licensed under the Apache License, Version 2.0.
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
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


class RelationSums:
    """Sums and means of class relation graphs and of prototypes, over the steps with the classes.

    Attributes:
        total (Tensor): Sum of cosines. Shape (C, C), float64.
        steps (Tensor): Steps in which both classes were present. Shape (C, C), float64.
        prototypes (Tensor): Sum of the classes' mean representations, each of unit length. Shape
            (C, D), float64.
    """

    def __init__(self, total: Tensor, steps: Tensor, prototypes: Tensor) -> None:
        self.total, self.steps, self.prototypes = total, steps, prototypes

    @classmethod
    def empty(cls, relation: Tensor, prototypes: Tensor) -> 'RelationSums':
        """Sums of nothing, of the shapes and device of a graph and of prototypes."""
        return cls(*(torch.zeros_like(like, dtype=torch.float64)
                     for like in (relation, relation, prototypes)))

    def add(self, relation: Tensor, prototypes: Tensor, present: Tensor) -> None:
        """Add the finite entries of a graph (C, C) and of prototypes (C, D), of classes (C,)."""
        both = present[:, None] & present[None] & relation.isfinite()
        self.total += relation.double().masked_fill(~both, 0)
        self.steps += both
        self.prototypes += prototypes.double().masked_fill(~both.diagonal()[:, None], 0)

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
    the prototypes. In between, a step adds up on the device, without a synchronisation.

    Args:
        interval (int, optional): See :class:`HistoryHook`.
    """

    key = 'class_relation'

    def __init__(self, interval: int | None = None) -> None:
        super().__init__(interval)
        self.loss: ReCoLoss | None = None
        self.sums: RelationSums | None = None  # since the last record

    def before_train(self, runner: Runner) -> None:
        """Find the loss.

        Raises:
            TypeError: The model has no ReCoLoss.
        """
        super().before_train(runner)
        self.loss = next((module for module in runner.model.modules()
                          if isinstance(module, ReCoLoss)), None)
        if self.loss is None:
            raise TypeError('ClassRelationHook needs a ReCoLoss among the losses of the model')

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Add this step's graph, on the device; keep a record where one is due."""
        loss = self.loss
        if loss.relation is None:  # in the burn-in
            return
        if self.sums is None:
            self.sums = RelationSums.empty(loss.relation, loss.prototypes)
        self.sums.add(loss.relation, loss.prototypes, loss.present)
        if self.is_due(runner):
            self.keep(runner, relations=self.sums.mean().float(), steps=self.sums.steps.int(),
                      prototypes=self.sums.mean_prototypes().float())
            self.sums = None

    def history(self, runner: Runner) -> ClassHistory:
        """The records as they are written and drawn."""
        return ClassHistory(**self.arrays(runner, len(self.records[0]['steps'])))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save records and sums."""
        super().before_save_checkpoint(runner, checkpoint)
        if self.sums is not None:
            checkpoint[self.key]['sums'] = self.sums.state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on adding up where a resumed run stopped."""
        super().after_load_checkpoint(runner, checkpoint)
        sums = checkpoint.get(self.key, {}).get('sums')
        if runner._resume and sums is not None:
            device = next(runner.model.parameters()).device
            self.sums = RelationSums(
                **{name: value.to(device, copy=True) for name, value in sums.items()})
