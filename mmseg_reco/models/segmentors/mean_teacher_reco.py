# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList
from torch import Tensor

from .dense import DenseOutput, stack_labels
from .semi_base import SemiBaseSegmentor


@MODELS.register_module()
class MeanTeacherReCo(SemiBaseSegmentor):
    """Mean teacher with mixing and regional contrast (ReCo, ICLR 2022).

    One class for both of the paper's tasks. Case I, few labelled images: the unlabelled half has
    no given labels. Case II, all images partially labelled: both halves have some, given labels
    override pseudo-labels, and with ``semi_train_cfg.self_label_threshold=0.97`` the labelled
    half's own confident predictions join the contrast.

    Args:
        segmentor (dict): Config of any stock ``EncoderDecoder``.
        losses (Sequence[dict]): Losses on representations; ``[]`` leaves the mixing baseline.
        mix (dict, optional): ``ClassMix``, ``CutMix`` or ``CutOut``; None for no mixing.
        rescale_crop (dict, optional): See :class:`SemiBaseSegmentor`.
        strong_augments (Sequence[dict]): See :class:`SemiBaseSegmentor`.
        loss_unsup (dict): Loss on pseudo-labels, called with (logits, labels, confidence).
        **kwargs: Of :class:`SemiBaseSegmentor`. ``semi_train_cfg`` also takes
            ``self_label_threshold`` (None), the confidence from which the labelled half's own
            predictions join the losses on representations.

    Raises:
        ValueError: If a threshold is not in [0, 1].
    """

    train_defaults = dict(SemiBaseSegmentor.train_defaults, self_label_threshold=None)

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
        super().__init__(
            segmentor,
            losses,
            mix=mix,
            rescale_crop=rescale_crop,
            strong_augments=strong_augments,
            **kwargs)
        self.loss_unsup = MODELS.build(loss_unsup)
        self.self_label_threshold = self.probability('self_label_threshold')

    def step(self, inputs: dict[str, Tensor],
             data_samples: dict[str, SampleList]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One training step; see :meth:`SemiBaseSegmentor.step`."""
        weak, teacher = self.pseudo_label(inputs['unsup'], data_samples['unsup'])
        strong = self.strong_view(weak)
        student = self.forward_student(inputs['sup'], strong.images)
        labeled, unlabeled = student.split(len(inputs['sup']))

        supervised = self.supervised_losses(labeled, data_samples['sup'])
        unsupervised = {
            self.loss_unsup.loss_name:
            self.loss_unsup(
                self.resize(self.student.class_logits(unlabeled), strong.labels), strong.labels,
                strong.confidence)
        }
        labels = self.complete(stack_labels(data_samples['sup']), labeled)
        unsupervised.update(self.representation_losses(student, labels, teacher, weak, strong))
        return supervised, unsupervised

    @torch.no_grad()
    def complete(self, labels: Tensor, labeled: DenseOutput) -> Tensor:
        """Fill gaps of partial labels with the student's own confident predictions (Case II)."""
        if self.self_label_threshold is None:
            return labels
        logits = self.resize(self.student.class_logits(labeled), labels)
        confidence, own = logits.float().softmax(1).max(1)
        own.masked_fill_(confidence < self.self_label_threshold, self.ignore_index)
        return torch.where(labels != self.ignore_index, labels, own)
