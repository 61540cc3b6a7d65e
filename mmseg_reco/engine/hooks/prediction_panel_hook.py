# Licensed under the Apache License, Version 2.0.
import copy
import os.path as osp
import random

import numpy as np
import torch
import torch.nn as nn
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils.data import Dataset

from mmseg_reco.models import SemiBaseSegmentor
from mmseg_reco.utils import unwrap
from mmseg_reco.visualization import PANEL_WIDTH, PseudoLabels, bgr_to_rgb, draw_panel

from .observing import harmless, undisturbed

SOURCES = ('val', 'train')


def choose_samples(dataset: Dataset, number: int) -> list[tuple[Tensor, SegDataSample]]:
    """Images of a dataset, evenly spaced, as its pipeline packs them with generators seeded by 0.

    Of multi-branch samples, the branch that an image belongs to.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    chosen = []
    for index in np.linspace(0, len(dataset) - 1, min(number, len(dataset))).astype(int).tolist():
        sample = dataset[index]  # once: it is cropped anew each time
        parts = [sample[key] for key in ('inputs', 'data_samples')]
        chosen.append(tuple(
            next(value for value in part.values() if value is not None)
            if isinstance(part, dict) else part for part in parts))
    return chosen


def label_map(data: PixelData) -> np.ndarray:
    """The labels (H, W) of one image."""
    return data.data[0].cpu().numpy()


def panel_row(model: nn.Module, image: Tensor, sample: SegDataSample, given: bool) -> dict:
    """What a panel shows of one image: title to cell.

    Args:
        model (nn.Module): In eval mode, also where its teacher labels each batch by itself in
            training.
        image (Tensor): BGR (3, H, W), uint8, as the pipeline packs it.
        sample (SegDataSample): Its labels.
        given (bool): Whether these are labels that training sees, which override pseudo-labels.
    """
    row = dict(image=bgr_to_rgb(image))
    if given:
        row['given labels'] = label_map(sample.gt_sem_seg)
        if 'hidden_sem_seg' in sample:
            row['hidden truth'] = label_map(sample.hidden_sem_seg)
    elif 'gt_sem_seg' in sample:
        row['ground truth'] = label_map(sample.gt_sem_seg)
    stock = getattr(model.data_preprocessor, 'data_preprocessor', model.data_preprocessor)
    batch = pseudo_collate([dict(inputs=image, data_samples=copy.deepcopy(sample))])
    data = stock(batch, False)
    inputs, samples = data['inputs'], data['data_samples']
    if not isinstance(model, SemiBaseSegmentor):
        row['prediction'] = label_map(model.predict(inputs, samples)[0].pred_sem_seg)
        return row
    unlabeled = copy.deepcopy(samples)
    if not given or unlabeled[0].gt_sem_seg.shape != inputs.shape[-2:]:
        none = inputs.new_full((1, *inputs.shape[-2:]), model.ignore_index, dtype=torch.long)
        unlabeled[0].gt_sem_seg = PixelData(data=none)
    weak, _ = model.pseudo_label(inputs, unlabeled)
    confidence = weak.confidence[0].float().cpu().numpy()
    row['pseudo-labels'] = PseudoLabels(weak.labels[0].cpu().numpy(), confidence,
                                        model.semi_train_cfg['weak_threshold'])
    row['confidence\n(black 0, white 1)'] = confidence
    for name in ('teacher', 'student'):
        network = getattr(model, name)
        row[name] = label_map(network.predict(inputs, copy.deepcopy(samples))[0].pred_sem_seg)
    return row


@HOOKS.register_module()
class PredictionPanelHook(Hook):
    """Paints what the networks make of a few images, always the same, at an interval.

    Columns: image; ground truth, or of training images the given labels and the hidden truth where
    it is known; of a student and its teacher the pseudo-labels with their confidence and both
    predictions, else the prediction. The panel goes to all backends of the visualizer, under the
    name ``prediction_panel``; the local one writes ``vis_data/vis_image``.

    Rank 0 alone draws. Training is the same to the bit with this hook and without it. If a panel
    cannot be drawn, a warning says why, and training goes on.

    Args:
        interval (int): Iterations between panels, >= 1; the last iteration has one, too.
        num_images (int): Images, evenly spaced over the dataset, >= 1.
        source (str): 'val', or 'train' for images as the training pipeline gives them, cropped
            once and for all.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, interval: int = 1000, num_images: int = 3, source: str = 'val') -> None:
        if interval < 1 or num_images < 1:
            raise ValueError('PredictionPanelHook: interval and num_images must be >= 1, got '
                             f'{interval!r} and {num_images!r}')
        if source not in SOURCES:
            raise ValueError(f'PredictionPanelHook: source is one of {SOURCES}, got {source!r}')
        self.interval = interval
        self.num_images = num_images
        self.source = source
        self._samples: list[tuple[Tensor, SegDataSample]] | None = None

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Draw, if it is time."""
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            self._paint(runner)

    @master_only
    def _paint(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        with harmless(runner, f'PredictionPanelHook could not draw at iteration {runner.iter + 1}'):
            with undisturbed(model):
                picture = self.draw(runner, model)
            runner.visualizer.add_image('prediction_panel', picture, runner.iter + 1)

    def draw(self, runner: Runner, model: nn.Module) -> np.ndarray:
        """Draw the panel.

        Args:
            runner (Runner): The runner.
            model (nn.Module): The model without its wrapper, in eval mode.

        Returns:
            np.ndarray: RGB picture, uint8.

        Raises:
            ValueError: If images of the validation are asked for and there is none.
        """
        if self.source == 'val' and runner.val_loop is None:
            raise ValueError("there is no validation: set source='train'")
        loader = runner.train_dataloader if self.source == 'train' else runner.val_loop.dataloader
        if self._samples is None:
            self._samples = choose_samples(loader.dataset, self.num_images)
        rows = [panel_row(model, *sample, self.source == 'train') for sample in self._samples]
        shared = [title for title in rows[0] if all(title in row for row in rows)]
        columns = {title: [row[title] for row in rows] for title in shared}
        meta = loader.dataset.metainfo
        return draw_panel(
            columns, meta['classes'], meta['palette'], column_width=PANEL_WIDTH / len(columns),
            row_labels=[osp.basename(sample.img_path) for _, sample in self._samples])
