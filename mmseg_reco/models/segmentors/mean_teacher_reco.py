# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList
from torch import Tensor

from mmseg_reco.utils import check_not_negative, check_probability

from ..preprocess import PseudoBatch
from .dense import DenseOutput, check_names, fill_padding, stack_labels
from .semi_base import SemiBaseSegmentor


@MODELS.register_module()
class MeanTeacherReCo(SemiBaseSegmentor):
    """Mean teacher with mixing and regional contrast (ReCo, ICLR 2022).

    One class for both of the paper's tasks. Case I, few labelled images: the unlabelled half has
    no given labels. Case II, all images partially labelled: both halves have some, given labels
    override pseudo-labels, and with ``semi_train_cfg.self_label_threshold=0.97`` the labelled
    half's own confident predictions join the contrast.

    ``semi_train_cfg=dict(strong_views=2, feature_dropout=0.5)`` makes it UniMatch (CVPR 2023), with
    or without the contrast; see docs/methods/unimatch.md.

    Args:
        segmentor (dict): Config of any stock ``EncoderDecoder``.
        losses (Sequence[dict]): Losses on representations; ``[]`` leaves the mixing baseline.
        mix (dict, optional): ``ClassMix``, ``CutMix`` or ``CutOut``; None for no mixing.
        rescale_crop (dict, optional): See :class:`SemiBaseSegmentor`.
        strong_augments (Sequence[dict]): See :class:`SemiBaseSegmentor`.
        loss_unsup (dict): Loss on pseudo-labels, called with (logits, labels, confidence).
        **kwargs: Of :class:`SemiBaseSegmentor`. ``semi_train_cfg`` also takes

            - ``self_label_threshold`` (None): confidence from which the labelled half's own
              predictions join the losses on representations.
            - ``feature_dropout`` (None): the student also decodes the weak views, each channel of
              their features dropped with this probability, and learns their pseudo-labels.
            - ``feature_weight`` (1.0): weight of that beside ``loss_unsup`` on the strong views.

    Raises:
        ValueError: If a threshold or probability is not in [0, 1], or the weight is negative.
    """

    train_defaults = dict(SemiBaseSegmentor.train_defaults, self_label_threshold=None,
                          feature_dropout=None, feature_weight=1.0)

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
        check_names([*self.losses, self.loss_unsup])

    def _check_settings(self, head: str, has_queries: bool) -> None:
        super()._check_settings(head, has_queries)
        for name in ('self_label_threshold', 'feature_dropout'):
            if self.semi_train_cfg[name] is not None:
                check_probability(f'semi_train_cfg.{name}', self.semi_train_cfg[name])
        check_not_negative('semi_train_cfg.feature_weight', self.semi_train_cfg['feature_weight'])

    def step(self, inputs: dict[str, Tensor],
             data_samples: dict[str, SampleList]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One training step; see :meth:`SemiBaseSegmentor.step`."""
        weak, teacher, strong = self.unlabeled_views(inputs, data_samples)
        drop_prob = self.semi_train_cfg['feature_dropout']
        perturbed = None if drop_prob is None else weak.images
        student = self.forward_student(inputs['sup'], strong.images, perturbed, drop_prob or 0.)
        student, perturbed = student.split(len(inputs['sup']) + len(strong.images))
        labeled, unlabeled = student.split(len(inputs['sup']))

        unsupervised, name = dict(), self.loss_unsup.loss_name
        if drop_prob is not None:
            unsupervised[f'{name}_features'] = (
                self.semi_train_cfg['feature_weight'] * self.pseudo_label_loss(perturbed, weak))
        # After that of perturbed features, so that the diagnostics logged are of this one.
        unsupervised[name] = self.pseudo_label_loss(unlabeled, strong)
        labels = self.complete(data_samples['sup'], labeled)
        unsupervised.update(self.representation_losses(student, labels, teacher, weak, strong))
        # Last, since a stock head's accuracy waits for a GPU, which has the above to do meanwhile.
        return self.given_losses(student, data_samples, strong), unsupervised

    def pseudo_label_loss(self, student: DenseOutput, batch: PseudoBatch) -> Tensor:
        """``loss_unsup`` of a forward pass on pseudo-labelled images."""
        logits = self.resize(self.student.class_logits(student), batch.labels)
        return self.loss_unsup(logits, batch.labels, batch.confidence)

    @torch.no_grad()
    def complete(self, data_samples: SampleList, labeled: DenseOutput) -> Tensor:
        """Given labels, whose gaps the student's own confident predictions fill (Case II).

        Args:
            data_samples (list[SegDataSample]): Labelled images.
            labeled (DenseOutput): The student's forward pass of them.

        Returns:
            Tensor: Labels, ignored where it is not sure and in padding. Shape (B, H, W), int64.
        """
        labels, threshold = stack_labels(data_samples), self.semi_train_cfg['self_label_threshold']
        if threshold is None:
            return labels
        logits = self.resize(self.student.class_logits(labeled), labels)
        confidence, own = self.student.to_probabilities(logits).max(1)
        own.masked_fill_(confidence < threshold, self.ignore_index)
        own = fill_padding(own, self.ignore_index, labels.shape[-2:], data_samples)
        return torch.where(labels != self.ignore_index, labels, own)
