# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
from mmseg.models.utils import resize
from mmseg.registry import MODELS, TASK_UTILS
from mmseg.utils import ConfigType, OptConfigType, SampleList, add_prefix
from torch import Tensor

from ..preprocess import PseudoBatch
from .embedding_encoder_decoder import DenseOutput, dense_losses, stack_labels
from .semi_base import SemiBaseSegmentor


@MODELS.register_module()
class MeanTeacherReCo(SemiBaseSegmentor):
    """Mean teacher with mixing and regional contrast (ReCo, ICLR 2022).

    One class for both of the paper's tasks. Case I, few labelled images: the unlabelled half has
    no given labels. Case II, all images partially labelled: both halves have some, given labels
    override pseudo-labels, and with ``semi_train_cfg.self_label_threshold=0.97`` the labelled
    half's own confident predictions join the contrast.

    Args:
        mix (dict, optional): ``ClassMix``, ``CutMix`` or ``CutOut``; None for no mixing.
        rescale_crop (dict, optional): First augmentation of the pseudo-labelled batch. It keeps
            the size of the images unless ``crop_size`` says otherwise.
        strong_augments (Sequence[dict]): Augmentations after mixing; they see RGB in [0, 1].
        loss_unsup (dict): Loss on pseudo-labels, called with (logits, labels, confidence).
        losses (Sequence[dict]): Losses on representations; ``[]`` leaves the mixing baseline.
        **kwargs: Of :class:`SemiBaseSegmentor`. ``semi_train_cfg`` takes ``weak_threshold`` (0.7),
            the confidence from which a pseudo-label joins the losses on representations;
            ``self_label_threshold`` (None), that for the labelled half's own predictions; and
            ``joint_forward`` (True), see :meth:`forward_student`.

    Raises:
        ValueError: If a threshold is not in [0, 1].
    """

    train_defaults = dict(
        SemiBaseSegmentor.train_defaults, weak_threshold=0.7, self_label_threshold=None)

    def __init__(self,
                 segmentor: ConfigType,
                 losses: Sequence[ConfigType] = (dict(type='ReCoLoss'), ),
                 mix: OptConfigType = dict(type='ClassMix'),
                 rescale_crop: OptConfigType = dict(type='BatchRescaleCrop'),
                 strong_augments: Sequence[ConfigType] = (dict(type='BatchColorJitter'),
                                                          dict(type='BatchGaussianBlur'),
                                                          dict(type='BatchFlip')),
                 loss_unsup: ConfigType = dict(type='PseudoLabelLoss'),
                 **kwargs) -> None:
        super().__init__(segmentor, losses, **kwargs)
        self.rescale_crop = TASK_UTILS.build(rescale_crop) if rescale_crop else None
        self.mix = TASK_UTILS.build(mix) if mix else None
        self.strong_augments = [TASK_UTILS.build(augment) for augment in strong_augments]
        self.loss_unsup = MODELS.build(loss_unsup)
        self.weak_threshold: float = self.semi_train_cfg['weak_threshold']
        self.self_label_threshold: float | None = self.semi_train_cfg['self_label_threshold']
        for name in ('weak_threshold', 'self_label_threshold'):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(
                    f'semi_train_cfg.{name} is a probability in [0, 1], got {value!r}')

    def loss(self, inputs: dict[str, Tensor],
             data_samples: dict[str, SampleList]) -> dict[str, Tensor]:
        """One training step.

        Args:
            inputs (dict[str, Tensor]): ``sup`` (B, 3, H, W), labelled images, strong view; and
                ``unsup`` (B', 3, H', W'), weak view.
            data_samples (dict[str, list[SegDataSample]]): Their labels.

        Returns:
            dict[str, Tensor]: Loss components.
        """
        pseudo = self.pseudo_label(inputs['unsup'], data_samples['unsup'])
        strong = self.strong_view(pseudo)
        student = self.forward_student(inputs['sup'], strong.images)
        labeled, unlabeled = student.split(len(inputs['sup']))

        losses = add_prefix(
            self.student.supervised_losses(labeled, data_samples['sup']), 'sup')
        losses[self.loss_unsup.loss_name] = self.loss_unsup(
            self.resize(unlabeled.logits, strong.labels), strong.labels, strong.confidence)
        if self.losses:
            trusted = torch.cat([
                self.complete(stack_labels(data_samples['sup']), labeled),
                strong.labels.masked_fill(strong.confidence < self.weak_threshold,
                                          self.ignore_index)
            ])
            losses.update(dense_losses(self.losses, student, trusted))
        return losses

    @torch.no_grad()
    def strong_view(self, batch: PseudoBatch) -> PseudoBatch:
        """Rescale and crop, mix, then colour, blur and flip a pseudo-labelled batch."""
        if self.rescale_crop is not None:
            batch = self.rescale_crop(batch)
        if self.mix is not None:
            batch = self.mix(batch)
        batch = batch._replace(images=self.data_preprocessor.to_rgb(batch.images))
        for augment in self.strong_augments:
            batch = augment(batch)
        return batch._replace(images=self.data_preprocessor.from_rgb(batch.images))

    @torch.no_grad()
    def complete(self, labels: Tensor, labeled: DenseOutput) -> Tensor:
        """Fill gaps of partial labels with the student's own confident predictions (Case II)."""
        if self.self_label_threshold is None:
            return labels
        confidence, own = self.resize(labeled.logits, labels).float().softmax(1).max(1)
        own.masked_fill_(confidence < self.self_label_threshold, self.ignore_index)
        return torch.where(labels != self.ignore_index, labels, own)

    def resize(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, C, h, w) at the size of labels (B, H, W)."""
        return resize(logits, labels.shape[-2:], mode='bilinear', align_corners=self.align_corners)
