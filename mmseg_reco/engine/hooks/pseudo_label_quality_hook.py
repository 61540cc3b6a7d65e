# Licensed under the Apache License, Version 2.0.
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.runner import Runner
from mmseg.models.utils import resize
from mmseg.registry import DATASETS, HOOKS
from mmseg.utils import ConfigType
from torch import Tensor
from torch.utils.data import Dataset

from mmseg_reco.models import SemiBaseSegmentor
from mmseg_reco.utils import unwrap
from mmseg_reco.visualization import draw_pseudo_label_quality

from .history_hook import History, HistoryHook
from .observing import undisturbed


def count_pseudo_labels(labels: Tensor, confidence: Tensor, truth: Tensor, num_classes: int,
                        threshold: float, ignore_index: int) -> Tensor:
    """Count, for each class, pseudo-labels, confident ones, right ones among them, and the truth.

    Args:
        labels (Tensor): Pseudo-labels in [0, C). Any shape, int64.
        confidence (Tensor): Their confidence, in [0, 1]. Same shape.
        truth (Tensor): True classes in [0, C), or ``ignore_index``, where nothing is counted. Same
            shape, int64.
        num_classes (int): C.
        threshold (float): Confidence from which a pseudo-label counts as confident.
        ignore_index (int): Value of ``truth`` where it is not known.

    Returns:
        Tensor: Pixels, shape (4, C), int64: labelled as the class; so with confidence; so with
        confidence and rightly; and truly of the class.
    """
    known = truth != ignore_index
    confident = known & (confidence >= threshold)
    return torch.stack([
        torch.bincount(classes.masked_fill(~counted, num_classes).flatten(),
                       minlength=num_classes + 1)[:num_classes]
        for classes, counted in ((labels, known), (labels, confident),
                                 (labels, confident & (labels == truth)), (truth, known))
    ])


@dataclass
class PseudoLabelHistory(History):
    """How good the teacher's labels were.

    Attributes:
        counts (np.ndarray): See :func:`count_pseudo_labels`. Shape (T, 4, C), int64.
        thresholds (np.ndarray): Confidence that counted as confident. Shape (T,).
        num_images (np.ndarray): Images that were labelled. Shape ().
    """

    file_name = 'pseudo_label_quality.npz'

    counts: np.ndarray
    thresholds: np.ndarray
    num_images: np.ndarray

    def quality(self) -> dict[str, np.ndarray]:
        """Shares in [0, 1], each (T, C), NaN where there is nothing to divide by.

        Returns:
            dict[str, np.ndarray]: ``precision``, of the confident labels of a class those that are
            right; ``coverage``, of all labels of a class those that are confident; ``recall``, of
            the pixels of a class those with a confident and right label.
        """
        labelled, confident, right, true = self.counts.transpose(1, 0, 2).astype(float)
        with np.errstate(invalid='ignore'):  # 0 / 0
            return dict(precision=right / confident, coverage=confident / labelled,
                        recall=right / true)

    def draw(self) -> dict[str, Figure]:
        """One panel for each class."""
        low, high = self.thresholds.min(), self.thresholds.max()
        span = f'{low:g}' if low == high else f'{low:g} to {high:g}, as scheduled,'
        title = f"Teacher's pseudo-labels on {self.num_images} images, confident from {span} on"
        return dict(pseudo_label_quality=draw_pseudo_label_quality(
            self.iterations, self.quality(), self.classes, title))


@HOOKS.register_module()
class PseudoLabelQualityHook(HistoryHook):
    """Measures the teacher's pseudo-labels, class by class, on images whose truth is known.

    At each record the teacher labels some images, without augmentation and as a whole: in eval
    mode, by its running BN statistics, where in training it may use each batch's. Precision,
    coverage and recall of each class (:meth:`PseudoLabelHistory.quality`) go to the visualizer as
    scalars, ``pseudo_label_precision/<class>`` and so on, the mean over classes as ``.../mean``,
    and are drawn at each validation and at the end; the counts stand in
    ``<work dir>/pseudo_label_quality.npz``. Several processes share the images. In between nothing
    is done, and training goes on as it would have without the hook, to the bit.

    Confident is what reaches the model's ``loss_unsup.strong_threshold``, as it is at that moment,
    or, without such a loss, ``semi_train_cfg.weak_threshold``.

    Args:
        interval (int, optional): See :class:`HistoryHook`.
        num_images (int): Images that are labelled, the same each time, evenly spread over the
            dataset; >= 1.
        dataset (dict, optional): Config of the dataset they are from, with labels and without
            random augmentation. Defaults to the validation set. For the unlabelled images of a
            benchmark: the validation set's config with their list as ``ann_file``.

    Raises:
        ValueError: If ``interval`` or ``num_images`` is not positive.
    """

    key = 'pseudo_label_quality'

    def __init__(self,
                 interval: int | None = None,
                 num_images: int = 20,
                 dataset: ConfigType | None = None) -> None:
        super().__init__(interval)
        if num_images < 1:
            raise ValueError(f'PseudoLabelQualityHook: num_images must be >= 1, got {num_images!r}')
        self.num_images = num_images
        self._dataset: ConfigType | Dataset | None = dataset

    @staticmethod
    def _model(runner: Runner) -> SemiBaseSegmentor:
        model = unwrap(runner.model)
        if not isinstance(model, SemiBaseSegmentor):
            raise TypeError('PseudoLabelQualityHook needs a model whose teacher gives labels, such '
                            f'as MeanTeacherReCo; got {type(model).__name__}. Remove the hook from '
                            'custom_hooks or wrap the model.')
        return model

    def before_train(self, runner: Runner) -> None:
        """Build the dataset.

        Raises:
            TypeError: The model has no teacher.
            ValueError: There is no dataset.
        """
        super().before_train(runner)
        self._model(runner)
        if self._dataset is None:
            if runner.val_loop is None:
                raise ValueError('PseudoLabelQualityHook labels validation images, but there is '
                                 'no validation: give it a dataset of its own.')
            self._dataset = runner.val_loop.dataloader.dataset
        elif isinstance(self._dataset, dict):
            self._dataset = DATASETS.build(self._dataset)
        self.num_images = min(self.num_images, len(self._dataset))

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Measure where a record is due."""
        if not self.is_due(runner):
            return
        model = self._model(runner)
        loss = getattr(model, 'loss_unsup', None)
        threshold = getattr(
            loss, 'strong_threshold', model.semi_train_cfg['weak_threshold'])
        with undisturbed(model):
            counts = self._count(model, threshold)
        all_reduce(counts)
        self.keep(runner, counts=counts, thresholds=torch.tensor(threshold, dtype=torch.float64))
        history = self.history(runner)
        for name, values in history.quality().items():
            scalars = {label: float(value) for label, value in
                       zip(history.classes, values[-1], strict=True) if np.isfinite(value)}
            if scalars:
                scalars['mean'] = float(np.mean(list(scalars.values())))
            runner.visualizer.add_scalars(
                {f'pseudo_label_{name}/{label}': value for label, value in scalars.items()},
                step=runner.iter + 1)

    def _count(self, model: SemiBaseSegmentor, threshold: float) -> Tensor:
        """Let the teacher label this process's share of the images."""
        device = next(model.parameters()).device
        counts = torch.zeros(4, model.num_classes, dtype=torch.int64, device=device)
        chosen = np.linspace(0, len(self._dataset) - 1, self.num_images).round().astype(int)
        for index in chosen[get_rank()::get_world_size()]:
            # one at a time: their sizes differ
            batch = model.data_preprocessor(pseudo_collate([self._dataset[int(index)]]), False)
            images, (sample, ) = batch['inputs'], batch['data_samples']
            if 'gt_sem_seg' not in sample:
                raise ValueError(f'{sample.img_path} has no labels, so that nothing can be said of '
                                 'pseudo-labels: PseudoLabelQualityHook.dataset needs '
                                 "dict(type='LoadAnnotations') in its pipeline.")
            truth = sample.gt_sem_seg.data[0]
            probs, _ = model.teacher_probs(images, [sample])
            height, width = sample.img_shape[:2]  # the rest is padding
            probs = resize(probs[..., :height, :width], truth.shape, mode='bilinear',
                           align_corners=model.align_corners)
            confidence, labels = probs[0].max(0)
            counts += count_pseudo_labels(labels, confidence, truth.to(device).long(),
                                          model.num_classes, threshold, model.ignore_index)
        return counts

    def history(self, runner: Runner) -> PseudoLabelHistory:
        """The records as they are written and drawn."""
        counts = self.records[0]['counts']
        return PseudoLabelHistory(
            **self.arrays(runner, counts.size(1)), num_images=np.array(self.num_images))
