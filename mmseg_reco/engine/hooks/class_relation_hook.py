# Licensed under the Apache License, Version 2.0.
import os.path as osp

import mmengine
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_reco.models import ReCoLoss


class RelationAverage:
    """Mean of class relation graphs, over the steps in which both classes were present.

    Attributes:
        total (Tensor): Sum of cosines. Shape (C, C), float64.
        steps (Tensor): Steps in which both classes were present. Shape (C, C), float64.
    """

    def __init__(self, total: Tensor, steps: Tensor) -> None:
        self.total, self.steps = total, steps

    @classmethod
    def empty(cls, like: Tensor) -> 'RelationAverage':
        """An average of nothing, of the shape and device of a relation graph."""
        return cls(torch.zeros_like(like, dtype=torch.float64),
                   torch.zeros_like(like, dtype=torch.float64))

    def add(self, relation: Tensor, present: Tensor) -> None:
        """Add the finite entries of a relation graph (C, C), of the classes present (C,)."""
        both = present[:, None] & present[None] & relation.isfinite()
        self.total += relation.double().masked_fill(~both, 0)
        self.steps += both

    def mean(self) -> Tensor:
        """Mean cosine (C, C), float64; NaN for classes that never met."""
        return torch.where(self.steps > 0, self.total / self.steps.clamp_min(1), torch.nan)


@HOOKS.register_module()
class ClassRelationHook(Hook):
    """Averages ReCo's class relation graph G over training, to see which classes are close.

    The average survives an interruption in the checkpoint, and stands in
    ``<work dir>/class_relation.json`` (``classes``, ``relation`` with null for classes that never
    met in a batch, ``steps``) after every checkpoint and at the end.
    """

    def __init__(self) -> None:
        self.average: RelationAverage | None = None

    def _loss(self, runner: Runner) -> ReCoLoss:
        for module in runner.model.modules():
            if isinstance(module, ReCoLoss):
                return module
        raise TypeError('ClassRelationHook needs a ReCoLoss among the losses of the model')

    def before_train(self, runner: Runner) -> None:
        """Refuse a model without ReCo before training starts."""
        self._loss(runner)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Add this step's graph, on the device."""
        loss = self._loss(runner)
        if self.average is None:
            self.average = RelationAverage.empty(loss.relation)
        self.average.add(loss.relation, loss.present)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the average, and write it out."""
        if self.average is not None:
            checkpoint['class_relation'] = dict(
                total=self.average.total.cpu(), steps=self.average.steps.cpu())
            self._write(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on averaging where a resumed run stopped."""
        if runner._resume and 'class_relation' in checkpoint:
            device = next(runner.model.parameters()).device
            saved = checkpoint['class_relation']
            self.average = RelationAverage(saved['total'].to(device), saved['steps'].to(device))

    def after_train(self, runner: Runner) -> None:
        """Write the final average."""
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
