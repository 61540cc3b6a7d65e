# Licensed under the Apache License, Version 2.0.
import copy
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, OptMultiConfig, OptSampleList, SampleList
from torch import Tensor

from ..preprocess import PseudoBatch
from .embedding_encoder_decoder import DenseOutput, stack_labels


class SemiBaseSegmentor(BaseSegmentor):
    """Student and teacher built from one segmentor config, as mmdet's SemiBaseDetector has it.

    The student learns by gradient; the teacher is its moving average (:class:`MeanTeacherHook`),
    without gradient and in eval mode. A method is a subclass that writes :meth:`loss`.

    Args:
        segmentor (dict): Config of any stock ``EncoderDecoder``. Its type becomes
            ``EmbeddingEncoderDecoder``, which adds the projector.
        losses (Sequence[dict]): Losses on representations, called with (embeddings, labels,
            probs). Without any, no projector is built.
        projector (dict, optional): Config of the :class:`Projector`.
        tap (str): Where the projector reads the decode head; see ``EmbeddingEncoderDecoder``.
        semi_train_cfg (dict, optional): Settings of the training step: ``joint_forward`` (True),
            see :meth:`forward_student`; ``teacher_train_mode`` (False), True for the published
            code's teacher, whose BN runs on each batch; and more in a method.
        semi_test_cfg (dict, optional): ``predict_on``: 'teacher' (default) or 'student'.
        data_preprocessor (dict, optional): ``MultiBranchDataPreprocessor``. Anything else is
            replaced by one around the segmentor's own.
        init_cfg (dict, optional): Initialisation.

    Raises:
        ValueError: If ``segmentor`` is not an EncoderDecoder or ``semi_train_cfg`` has a key that
            the method does not know.
    """

    #: Keys of ``semi_train_cfg`` and their defaults.
    train_defaults = dict(joint_forward=True, teacher_train_mode=False)

    def __init__(self,
                 segmentor: ConfigType,
                 losses: Sequence[ConfigType] = (),
                 projector: OptConfigType = None,
                 tap: str = 'conv_seg',
                 semi_train_cfg: OptConfigType = None,
                 semi_test_cfg: OptConfigType = None,
                 data_preprocessor: OptConfigType = None,
                 init_cfg: OptMultiConfig = None) -> None:
        segmentor = copy.deepcopy(segmentor)
        if segmentor['type'] != 'EncoderDecoder':
            raise ValueError(
                f'{type(self).__name__} wraps a stock EncoderDecoder, but model.segmentor.type is '
                f'"{segmentor["type"]}". Losses on representations, projector and tap are given to '
                f'{type(self).__name__} itself.')
        # The Runner hands over a stock config's top-level data_preprocessor where there is none.
        if (data_preprocessor or {}).get('type') != 'MultiBranchDataPreprocessor':
            data_preprocessor = dict(
                type='MultiBranchDataPreprocessor',
                data_preprocessor=segmentor.get('data_preprocessor') or data_preprocessor)
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)

        segmentor['type'] = 'EmbeddingEncoderDecoder'
        student = dict(segmentor, tap=tap, projector=(projector or {}) if losses else None)
        self.student = MODELS.build(copy.deepcopy(student))
        self.teacher = MODELS.build(copy.deepcopy(student))
        self.teacher.requires_grad_(False)
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in losses)
        unknown = set(semi_train_cfg or {}) - set(self.train_defaults)
        if unknown:
            raise ValueError(f'semi_train_cfg of {type(self).__name__} has no {sorted(unknown)}; '
                             f'it knows {sorted(self.train_defaults)}')
        self.semi_train_cfg = {**self.train_defaults, **(semi_train_cfg or {})}
        self.semi_test_cfg = {'predict_on': 'teacher', **(semi_test_cfg or {})}
        self.num_classes = self.student.num_classes
        self.ignore_index = self.student.decode_head.ignore_index
        self.align_corners = self.student.align_corners
        self.diagnostics: dict[str, Tensor] = dict()

    def train(self, mode: bool = True) -> 'SemiBaseSegmentor':
        """Switch mode; the teacher stays in eval mode unless the config says otherwise."""
        super().train(mode)
        self.teacher.train(mode and self.semi_train_cfg['teacher_train_mode'])
        return self

    @torch.no_grad()
    def pseudo_label(self, images: Tensor, data_samples: SampleList) -> PseudoBatch:
        """Let the teacher label images; given labels override it, with confidence 1.

        Args:
            images (Tensor): Weak views. Shape (B, 3, H, W).
            data_samples (list[SegDataSample]): Given labels (``gt_sem_seg``, ignored where there
                is none) and, for diagnostics only, hidden ones (``hidden_sem_seg``).

        Returns:
            PseudoBatch: Images, pseudo-labels (B, H, W), int64, and confidence (B, H, W). Padding
            is ignored, with confidence 0.
        """
        logits = self.teacher.encode_decode(images, [s.metainfo for s in data_samples])
        confidence, labels = logits.float().softmax(1).max(1)
        self.diagnostics = pseudo_label_accuracy(labels, confidence, data_samples,
                                                 self.ignore_index)
        given = stack_labels(data_samples)
        labels = torch.where(given != self.ignore_index, given, labels)
        confidence = torch.where(given != self.ignore_index, 1., confidence)
        for sample, label, certainty in zip(data_samples, labels, confidence, strict=True):
            height, width = sample.img_shape[:2]
            label[height:] = self.ignore_index
            label[:, width:] = self.ignore_index
            certainty[height:] = 0
            certainty[:, width:] = 0
        return PseudoBatch(images, labels, confidence)

    def forward_student(self, labeled: Tensor, unlabeled: Tensor) -> DenseOutput:
        """Run the student on labelled and unlabelled images, in one pass or in two.

        One pass (``semi_train_cfg.joint_forward=True``, the default) normalises both halves with
        common BN statistics; the published code runs two passes, each half with its own (False).

        Args:
            labeled (Tensor): Shape (B, 3, H, W).
            unlabeled (Tensor): Shape (B', 3, H, W).

        Returns:
            DenseOutput: Of the labelled images followed by the unlabelled ones.

        Raises:
            ValueError: If the two halves differ in size.
        """
        if labeled.shape[1:] != unlabeled.shape[1:]:
            raise ValueError(
                f'labelled images are {tuple(labeled.shape[2:])} and unlabelled ones '
                f'{tuple(unlabeled.shape[2:])} (height, width): give both the same crop_size')
        if self.semi_train_cfg['joint_forward']:
            return self.student.forward_dense(torch.cat([labeled, unlabeled]))
        return DenseOutput.cat(
            self.student.forward_dense(labeled), self.student.forward_dense(unlabeled))

    @property
    def _predictor(self) -> nn.Module:
        name = self.semi_test_cfg['predict_on']
        if name not in ('teacher', 'student'):
            raise ValueError(f"semi_test_cfg.predict_on is 'teacher' or 'student', got {name!r}")
        return getattr(self, name)

    def predict(self, inputs: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """Stock prediction of the network named by ``semi_test_cfg.predict_on``."""
        return self._predictor.predict(inputs, data_samples)

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Tensor:
        return self._predictor._forward(inputs, data_samples)

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Backbone features of the network named by ``semi_test_cfg.predict_on``."""
        return self._predictor.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[dict]) -> Tensor:
        """Logits, at image size, of the network named by ``semi_test_cfg.predict_on``."""
        return self._predictor.encode_decode(inputs, batch_data_samples)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Let a checkpoint of a plain segmentor start both student and teacher."""
        own = [key for key in state_dict if key.startswith(prefix)]
        branches = (f'{prefix}student.', f'{prefix}teacher.')
        if not any(key.startswith(branches) for key in own):
            for key in own:
                value = state_dict.pop(key)
                for branch in branches:
                    state_dict[branch + key[len(prefix):]] = value
        super()._load_from_state_dict(state_dict, prefix, *args)


def pseudo_label_accuracy(labels: Tensor, confidence: Tensor, data_samples: SampleList,
                          ignore_index: int) -> dict[str, Tensor]:
    """Compare the teacher's labels with hidden truth, where a batch has it.

    Args:
        labels (Tensor): Teacher's labels. Shape (B, H, W), int64.
        confidence (Tensor): Their confidence. Shape (B, H, W).
        data_samples (list[SegDataSample]): Samples; ``hidden_sem_seg`` is used if all have it.
        ignore_index (int): Label of pixels without truth.

    Returns:
        dict[str, Tensor]: ``teacher_confidence`` and, with hidden truth, ``pseudo_label_acc``, in
        [0, 1].
    """
    result = dict(teacher_confidence=confidence.mean())
    if all('hidden_sem_seg' in sample for sample in data_samples):
        height, width = labels.shape[-2:]
        truth = torch.cat([
            F.pad(hidden, (0, width - hidden.shape[-1], 0, height - hidden.shape[-2]),
                  value=ignore_index)
            for hidden in (sample.hidden_sem_seg.data for sample in data_samples)
        ])
        known = truth != ignore_index
        result['pseudo_label_acc'] = ((labels == truth) & known).sum() / known.sum().clamp_min(1)
    return result
