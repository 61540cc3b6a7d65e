# Licensed under the Apache License, Version 2.0.
import copy
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.models.utils import resize
from mmseg.registry import MODELS, TASK_UTILS
from mmseg.structures import SegDataSample
from mmseg.utils import (
    ConfigType,
    OptConfigType,
    OptMultiConfig,
    OptSampleList,
    SampleList,
    add_prefix,
)
from torch import Tensor

from mmseg_reco.utils import (
    as_list,
    check_count,
    check_not_negative,
    check_probability,
    is_batch_norm,
    type_name,
)

from ..losses import RegionLoss
from ..preprocess import IGNORE_INDEX, PseudoBatch
from ..regions import RegionPrediction, RegionTarget, region_target
from .dense import (
    DenseOutput,
    check_names,
    dense_losses,
    fill_padding,
    no_loss,
    stack_labels,
)
from .distribution_alignment import DistributionAlignment
from .query_encoder_decoder import QUERY_HEADS

#: Stock segmentors that cannot be student and teacher, and why.
_UNFIT = dict(
    MultimodalEncoderDecoder='It classifies its masks by a text encoder, and nothing here reads '
    'regions out of that: take MaskFormer or Mask2Former.',
    DepthEstimator='It estimates depth, so there are no classes to label or to contrast.')


class SemiBaseSegmentor(BaseSegmentor):
    """Student and teacher built from one segmentor config, as mmdet's SemiBaseDetector has it.

    The student learns by gradient; the teacher is its moving average (:class:`MeanTeacherHook`),
    without gradient and in eval mode, but for its BN (``semi_train_cfg.teacher_batch_stats``). A
    method is a subclass that writes :meth:`step`.

    Args:
        segmentor (dict): Config of any stock ``EncoderDecoder`` or ``CascadeEncoderDecoder``. Its
            type becomes ``QueryEncoderDecoder`` if its head classifies queries (MaskFormer,
            Mask2Former), else ``EmbeddingEncoderDecoder`` or ``EmbeddingCascadeEncoderDecoder``,
            which add the projector.
        losses (Sequence[dict] | dict): Losses on representations: of pixels, called with
            (embeddings, labels, probs), such as ``ReCoLoss``; and of regions, called with
            (student, teacher), such as ``RegionFeatureContrastiveLoss``; in any combination.
            Without any, no projector is built.
        projector (dict, optional): Config of the :class:`Projector`.
        tap (str, optional): Where the projector reads the decode head; see
            :class:`EmbeddingMixin`.
        mix (dict, optional): ``ClassMix``, ``CutMix`` or ``CutOut``; None for no mixing.
        rescale_crop (dict, optional): First augmentation of the pseudo-labelled batch. It keeps
            the size of the images unless ``crop_size`` says otherwise.
        strong_augments (Sequence[dict] | dict): Augmentations after mixing; they see RGB in
            [0, 1], and may change the batch that they are given.
        matcher (dict): Matches regions of teacher and student where the head has queries.
        semi_train_cfg (dict, optional): Settings of the training step:

            - ``joint_forward`` (True): see :meth:`forward_student`.
            - ``teacher_batch_stats`` (True): after the burn-in the teacher's BN normalises each
              batch by itself, as in ReCo's published code, and keeps running statistics of weak
              views, by which it predicts. False: it labels in eval mode, by the student's, which
              are those of strong views, mixed and recoloured.
            - ``weak_threshold`` (0.7): confidence from which a pseudo-label, a pixel of a region
              or a region of the teacher takes part in the losses on representations.
            - ``region_source`` ('semantic'): the teacher's regions are the classes of its label
              map; 'query', for a head with queries: its confident queries; see
              :func:`region_target`.
            - ``min_region_area`` (0): regions must be larger, in pixels of the head's masks.
            - ``strong_views`` (1): strong views of each unlabelled image, augmented and mixed
              independently; all losses run over all of them.
            - ``class_frequencies`` (None): 'labeled' gives the pseudo-labels the class frequencies
              of the labels, a list these; see :class:`DistributionAlignment`. Labels that leave
              out much of some classes, as single pixels do, need the list. Masks and class
              distributions of the teacher's regions, where a loss reads them, stay as they are.
            - ``exact_frequencies`` (False): whether to correct this for a teacher that is sure of
              what it labels too often; for schedules of many thousand iterations.
            - ``supervise_both_halves`` (False): given labels of the unlabelled half join the
              supervised loss, too, where its strong views have them and their neighbours (after
              the burn-in). For few given pixels, of which a step otherwise sees half as many as
              one without a teacher; the published code does not do it. Not for PIDHead, which
              learns edges, too.
            - ``burn_in`` (0): iterations with labelled data alone.
            - ``ramp_up`` (0): iterations after them in which the weight of all that is learned
              without labels grows from 0 to 1, in a line.

            A method may know more.
        semi_test_cfg (dict, optional): ``predict_on``: 'teacher' (default) or 'student'.
        data_preprocessor (dict, optional): ``MultiBranchDataPreprocessor``. Anything else is
            replaced by one around the segmentor's own.
        init_cfg (dict, optional): Initialisation.
        pretrained (None): Belongs to the ``segmentor``, as does ``train_cfg``;
            :func:`mmseg.apis.init_model` sets both to None on any model.
        train_cfg (None): See ``pretrained``.

    Raises:
        ValueError: If ``segmentor`` is of another type, ``pretrained`` or ``train_cfg`` is given, a
            head ignores another label than 255, two losses have one name, or ``semi_train_cfg`` has
            a key that the method does not know or a value out of its range.
    """

    #: Keys of ``semi_train_cfg`` and their defaults.
    train_defaults = dict(
        joint_forward=True, teacher_batch_stats=True, weak_threshold=0.7, region_source='semantic',
        min_region_area=0, strong_views=1, class_frequencies=None,
        exact_frequencies=False, supervise_both_halves=False, burn_in=0, ramp_up=0)

    def __init__(self,
                 segmentor: ConfigType,
                 losses: Sequence[ConfigType] | ConfigType = (),
                 projector: OptConfigType = None,
                 tap: str | None = None,
                 mix: OptConfigType = None,
                 rescale_crop: OptConfigType = None,
                 strong_augments: Sequence[ConfigType] | ConfigType = (),
                 matcher: ConfigType = dict(type='HungarianMatcher'),
                 semi_train_cfg: OptConfigType = None,
                 semi_test_cfg: OptConfigType = None,
                 data_preprocessor: OptConfigType = None,
                 init_cfg: OptMultiConfig = None,
                 pretrained: None = None,
                 train_cfg: None = None) -> None:
        for name, value in dict(pretrained=pretrained, train_cfg=train_cfg).items():
            if value is not None:
                raise ValueError(f'model.{name} belongs to the stock network: give it as '
                                 f'model.segmentor.{name}')
        kind = type_name(segmentor)
        if kind not in ('EncoderDecoder', 'CascadeEncoderDecoder'):
            why = _UNFIT.get(kind, 'What a class of your own adds to them belongs in backbone, '
                             'neck or heads: name the stock class.')
            if kind.startswith('Embedding'):
                why = ('Losses on representations, projector and tap are given to '
                       f'{type(self).__name__} itself.')
            raise ValueError(
                f'{type(self).__name__} wraps a stock EncoderDecoder or CascadeEncoderDecoder, but '
                f'model.segmentor.type is "{kind}". {why}')
        # The Runner hands over a stock config's top-level data_preprocessor where there is none.
        if (data_preprocessor or {}).get('type') != 'MultiBranchDataPreprocessor':
            data_preprocessor = dict(
                type='MultiBranchDataPreprocessor',
                data_preprocessor=segmentor.get('data_preprocessor') or data_preprocessor)
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)

        head = segmentor['decode_head']
        head = type_name(as_list(head)[-1])
        has_queries = head in {*QUERY_HEADS, *QUERY_HEADS.values()}
        if has_queries and projector is not None:
            raise ValueError(f'{head} has no place for a projector: losses on representations read '
                             'the map of its pixel decoder. Remove model.projector.')
        # Settings are read from here alone, so that hooks and tools can change them.
        self.semi_train_cfg = ConfigDict({**self.train_defaults, **(semi_train_cfg or {})})
        self.semi_test_cfg = {'predict_on': 'teacher', **(semi_test_cfg or {})}
        self._check_settings(head, has_queries)

        if has_queries:
            segmentor = {**segmentor, 'type': 'QueryEncoderDecoder'}
        else:
            segmentor = {**segmentor, 'type': f'Embedding{kind}', 'tap': tap,
                         'projector': (projector or {}) if losses else None}
        self._build_networks(segmentor, head)
        self._build_losses(as_list(losses), head, has_queries)
        self.rescale_crop = TASK_UTILS.build(rescale_crop) if rescale_crop else None
        self.mix = TASK_UTILS.build(mix) if mix else None
        self.strong_augments = [TASK_UTILS.build(augment) for augment in as_list(strong_augments)]
        self.matcher = TASK_UTILS.build(matcher)
        frequencies = self.semi_train_cfg['class_frequencies']
        self.align = None if frequencies is None else DistributionAlignment(
            self.num_classes, frequencies, exact=self.semi_train_cfg['exact_frequencies'])
        self.diagnostics: dict[str, Tensor] = dict()

    def _check_settings(self, head: str, has_queries: bool) -> None:
        """Refuse settings that the method does not know, or that do not go with the head."""
        settings = self.semi_train_cfg
        unknown = set(settings) - set(self.train_defaults)
        if unknown:
            raise ValueError(f'semi_train_cfg of {type(self).__name__} has no {sorted(unknown)}; '
                             f'it knows {sorted(self.train_defaults)}')
        check_probability('semi_train_cfg.weak_threshold', settings['weak_threshold'])
        check_count('semi_train_cfg.strong_views', settings['strong_views'])
        for name in ('burn_in', 'ramp_up', 'min_region_area'):
            check_not_negative(f'semi_train_cfg.{name}', settings[name])
        sources = ('semantic', 'query') if has_queries else ('semantic', )
        if settings['region_source'] not in sources:
            raise ValueError(f'semi_train_cfg.region_source is one of {sources} with {head}, got '
                             f'{settings["region_source"]!r}')
        if settings['exact_frequencies'] and settings['class_frequencies'] is None:
            raise ValueError('semi_train_cfg.exact_frequencies corrects the alignment to '
                             "class_frequencies, which are not given: set them to 'labeled', or to "
                             'a list')
        if head == 'PIDHead' and settings['supervise_both_halves']:
            raise ValueError('PIDHead learns edges, which nobody draws in mixed images: remove '
                             'model.semi_train_cfg.supervise_both_halves')
        if self.semi_test_cfg['predict_on'] not in ('teacher', 'student'):
            raise ValueError("semi_test_cfg.predict_on is 'teacher' or 'student', got "
                             f"{self.semi_test_cfg['predict_on']!r}")

    def _build_networks(self, segmentor: ConfigType, head: str) -> None:
        """Build student and teacher, and refuse labels that a byte cannot hold."""
        self.student = MODELS.build(copy.deepcopy(segmentor))
        self.teacher = MODELS.build(copy.deepcopy(segmentor))
        self.teacher.requires_grad_(False)
        self.num_classes = self.student.num_classes
        self.align_corners = self.student.align_corners
        self.ignore_index = IGNORE_INDEX
        ignored = {name: part.ignore_index for name, part in self.student.named_modules()
                   if hasattr(part, 'num_classes') and hasattr(part, 'ignore_index')}
        others = [f'{name}.ignore_index={label}' for name, label in ignored.items()
                  if label != IGNORE_INDEX]
        if others or self.num_classes > IGNORE_INDEX:
            raise ValueError(
                f'pseudo-labels are in [0, {IGNORE_INDEX - 1}], and {IGNORE_INDEX} is ignored, but '
                f'{" and ".join([f"{head} has {self.num_classes} classes", *others])}: give '
                f'every head and loss ignore_index={IGNORE_INDEX}, and the masks at most '
                f'{IGNORE_INDEX} classes')

    def _build_losses(self, losses: Sequence[ConfigType], head: str, has_queries: bool) -> None:
        """Build the losses on representations, and refuse those that lack what they compare."""
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in losses)
        check_names(self.losses)
        self.region_losses = [loss for loss in self.losses if isinstance(loss, RegionLoss)]
        self.pixel_losses = [loss for loss in self.losses if not isinstance(loss, RegionLoss)]
        from_queries = self.semi_train_cfg['region_source'] == 'query'
        if self.region_losses and from_queries and self.semi_train_cfg['strong_views'] > 1:
            raise ValueError("semi_train_cfg.strong_views > 1 goes with region_source='semantic': "
                             "the teacher's queries are those of one view")
        for loss in self.region_losses:
            if loss.needs_queries and not has_queries:
                raise ValueError(f'{type(loss).__name__} compares classes of queries, and {head} '
                                 'has none: remove it from model.losses')
            if loss.needs_class_probs and not from_queries:
                raise ValueError(f'{type(loss).__name__}, as configured, needs the class '
                                 "distribution of the teacher's queries: set "
                                 "semi_train_cfg.region_source='query'")

    def train(self, mode: bool = True) -> 'SemiBaseSegmentor':
        """Switch mode; the teacher stays in eval mode, but for its BN, if so configured."""
        super().train(mode)
        self._use_batch_stats(mode and self.semi_train_cfg['teacher_batch_stats'])
        return self

    def _use_batch_stats(self, wanted: bool) -> None:
        """Let the teacher's BN run on each batch, where the student's does, or not.

        Only where it labels: auxiliary heads, and a projector that no loss reads, see no batch.
        (Nor do the auxiliary branches within PIDHead and DDRHead, which keep those of the start.)
        """
        self.teacher.train(wanted)
        for name in ('auxiliary_head', *(() if self.region_losses else ('projector', ))):
            idle = getattr(self.teacher, name, None)
            if idle is not None:
                idle.eval()
        norms = [module for module in self.teacher.modules()
                 if is_batch_norm(module) and module.training]
        self.teacher.eval()  # dropout and stochastic depth are the student's alone
        for norm in norms:
            norm.train()

    def loss(self, inputs: dict[str, Tensor],
             data_samples: dict[str, SampleList]) -> dict[str, Tensor]:
        """One training step: burn-in and ramp-up around the method's :meth:`step`.

        Args:
            inputs (dict[str, Tensor]): ``sup`` (B, 3, H, W), labelled images, strong view; and
                ``unsup`` (B', 3, H', W'), weak view.
            data_samples (dict[str, list[SegDataSample]]): Their labels.

        Returns:
            dict[str, Tensor]: Loss components.

        Raises:
            ValueError: If the batch has no labelled images, or no unlabelled ones after the
                burn-in.
        """
        weight = self.ramp(MessageHub.get_current_instance().get_info('iter', 0))
        # In the burn-in the teacher sees nothing, and gets the student's from MeanTeacherHook.
        wanted = self.training and self.semi_train_cfg['teacher_batch_stats'] and weight > 0
        running = any(module.training for module in self.teacher.modules())
        if self.teacher.training or running != wanted:  # whole, as modules are when they are built
            self._use_batch_stats(wanted)
        for branch in ('sup', 'unsup') if weight else ('sup', ):
            if branch not in inputs:
                raise ValueError(f'The batch has no images of the branch "{branch}": give '
                                 'train_dataloader a MultiSourceSampler over a '
                                 'LabeledUnlabeledDataset, and its burn_in the value of '
                                 'model.semi_train_cfg.burn_in, or none.')
        if self.align is not None:
            self.align.count(stack_labels(data_samples['sup']))
        if weight == 0:
            labeled = self.student.forward_dense(inputs['sup'])
            losses = self.supervised_losses(labeled, data_samples['sup'])
            if labeled.embeddings is not None:
                losses['loss_projector'] = no_loss(labeled.embeddings)
            return losses
        supervised, unsupervised = self.step(inputs, data_samples)
        return {**supervised, **{name: weight * loss for name, loss in unsupervised.items()}}

    def step(self, inputs: dict[str, Tensor],
             data_samples: dict[str, SampleList]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The method, for the arguments of :meth:`loss`.

        Returns:
            tuple[dict[str, Tensor], dict[str, Tensor]]: Losses from given labels alone, and the
            others.
        """
        raise NotImplementedError

    def ramp(self, iteration: int) -> float:
        """Weight of what is learned without labels: 0 in the burn-in, then a line up to 1."""
        done = iteration - self.semi_train_cfg['burn_in']
        if done < 0:
            return 0.
        length = self.semi_train_cfg['ramp_up']
        return min((done + 1) / length, 1.) if length else 1.

    def supervised_losses(self, labeled: DenseOutput,
                          data_samples: SampleList) -> dict[str, Tensor]:
        """The stock losses of the student's heads on labelled images, under ``sup.``."""
        return add_prefix(self.student.supervised_losses(labeled, data_samples), 'sup')

    def given_losses(self, student: DenseOutput, data_samples: dict[str, SampleList],
                     strong: PseudoBatch) -> dict[str, Tensor]:
        """:meth:`supervised_losses` of the labelled half, or of both (``supervise_both_halves``).

        Args:
            student (DenseOutput): Of the labelled images followed by the strong views.
            data_samples (dict[str, list[SegDataSample]]): Given labels of both halves.
            strong (PseudoBatch): Unlabelled images as the student saw them.

        Returns:
            dict[str, Tensor]: Loss components.
        """
        samples = data_samples['sup']
        if self.semi_train_cfg['supervise_both_halves']:
            given = stack_labels(data_samples['unsup'])
            samples = [*samples, *self.given_samples(strong, given)]
        return self.supervised_losses(student.split(len(samples))[0], samples)

    def given_samples(self, strong: PseudoBatch, given: Tensor) -> SampleList:
        """Samples of strong views with given labels alone.

        A pixel is left out if its 3x3 neighbourhood comes from several images or holds padding:
        nothing around it tells what it was.

        Args:
            strong (PseudoBatch): With its origin.
            given (Tensor): Given labels of the weak views. Shape (B, H, W), int64.
        """
        labels = given.flatten()[strong.origin.clamp_min(0)]
        image = strong.origin.div(given[0].numel(), rounding_mode='floor').float()
        first, last = -F.max_pool2d(-image, 3, 1, 1), F.max_pool2d(image, 3, 1, 1)
        labels.masked_fill_((first < 0) | (first < last), self.ignore_index)
        return [SegDataSample(metainfo=dict(img_shape=tuple(label.shape)),
                              gt_sem_seg=PixelData(data=label[None])) for label in labels]

    @torch.no_grad()
    def teacher_probs(self, images: Tensor, data_samples: SampleList,
                      embed: bool = False) -> tuple[Tensor, DenseOutput]:
        """What the teacher's pseudo-labels are made of.

        Args:
            images (Tensor): Weak views. Shape (B, 3, H, W).
            data_samples (list[SegDataSample]): Their metas.
            embed (bool): Whether to compute representations, too.

        Returns:
            tuple[Tensor, DenseOutput]: Probabilities (B, C, H, W), aligned to ``class_frequencies``
            if set, whose statistics they update in training; and the teacher's forward pass.
        """
        # mmseg resizes maps to the first image's own size, also where the batch is padded.
        metas = [dict(sample.metainfo, img_shape=images.shape[-2:]) for sample in data_samples]
        try:
            teacher = self.teacher.predict_dense(images, metas, embed=embed)
        except ValueError as error:
            if 'more than 1 value per channel' not in str(error):
                raise
            raise ValueError(
                "The teacher's BN gets one number for a channel, as of one unlabelled image "
                'behind a global pooling: give train_dataloader a larger batch_size, or set '
                'model.semi_train_cfg.teacher_batch_stats=False') from error
        probs = self.teacher.probabilities(teacher)
        if self.align is not None:
            if self.training:
                self.align.observe(fill_padding(probs, 0, images.shape[-2:], data_samples))
            probs = self.align(probs)
        return self.resize(probs, images), teacher

    @torch.no_grad()
    def pseudo_label(self, images: Tensor,
                     data_samples: SampleList) -> tuple[PseudoBatch, DenseOutput]:
        """Let the teacher label images; given labels override it, with confidence 1.

        Args:
            images (Tensor): Weak views. Shape (B, 3, H, W).
            data_samples (list[SegDataSample]): Given labels (``gt_sem_seg``, ignored where there
                is none) and, for diagnostics only, hidden ones (``hidden_sem_seg``).

        Returns:
            tuple[PseudoBatch, DenseOutput]: Images with pseudo-labels and confidence, padding
            being ignored with confidence 0, and with their origin if something looks up in the
            weak views; and the teacher's maps.
        """
        probs, teacher = self.teacher_probs(images, data_samples, embed=bool(self.region_losses))
        confidence, labels = probs.max(1)
        self.diagnostics = pseudo_label_diagnostics(labels, confidence, data_samples,
                                                    self.ignore_index)
        given = stack_labels(data_samples)
        labels = torch.where(given != self.ignore_index, given, labels)
        confidence = torch.where(given != self.ignore_index, 1., confidence)
        size = images.shape[-2:]
        labels = fill_padding(labels, self.ignore_index, size, data_samples)
        confidence = fill_padding(confidence, 0, size, data_samples)
        batch = PseudoBatch(images, labels, confidence)
        if self.region_losses or self.semi_train_cfg['supervise_both_halves']:
            batch = batch.track_origin()
        return batch, teacher

    def unlabeled_views(
            self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]
    ) -> tuple[PseudoBatch, DenseOutput, PseudoBatch]:
        """What the networks see of the unlabelled images, for the arguments of :meth:`loss`.

        Returns:
            tuple[PseudoBatch, DenseOutput, PseudoBatch]: Weak views and the teacher's maps of
            them, as of :meth:`pseudo_label`; and the student's strong views.
        """
        weak, teacher = self.pseudo_label(inputs['unsup'], data_samples['unsup'])
        return weak, teacher, self.strong_views(weak)

    @torch.no_grad()
    def strong_view(self, batch: PseudoBatch) -> PseudoBatch:
        """Rescale and crop, mix, then colour, blur and flip a pseudo-labelled batch."""
        # In a byte each, labels are an eighth of what there is to move.
        view = batch._replace(labels=batch.labels.byte())
        view = view.map(torch.clone) if self.rescale_crop is None else self.rescale_crop(view)
        if self.mix is not None:
            view = self.mix(view)
        view = view._replace(images=self.data_preprocessor.to_rgb(view.images))
        for augment in self.strong_augments:
            view = augment(view)
        return view._replace(images=self.data_preprocessor.from_rgb(view.images),
                             labels=view.labels.long())

    def strong_views(self, batch: PseudoBatch) -> PseudoBatch:
        """As many strong views as configured, each augmented and mixed anew, one after another."""
        count = self.semi_train_cfg['strong_views']
        return PseudoBatch.cat([self.strong_view(batch) for _ in range(count)])

    def resize(self, maps: Tensor, like: Tensor) -> Tensor:
        """Maps (B, C, h, w) at the size (H, W) of another tensor."""
        if maps.shape[-2:] == like.shape[-2:]:
            return maps
        return resize(maps, like.shape[-2:], mode='bilinear', align_corners=self.align_corners)

    def forward_student(self, labeled: Tensor, unlabeled: Tensor, perturbed: Tensor | None = None,
                        drop_prob: float = 0.) -> DenseOutput:
        """Run the student on labelled and unlabelled images, in one pass or in two.

        One pass (``semi_train_cfg.joint_forward=True``, the default) normalises both halves with
        common BN statistics; the published code runs two passes, each half with its own (False).

        Args:
            labeled (Tensor): Shape (B, 3, H, W).
            unlabeled (Tensor): Shape (B', 3, H, W).
            perturbed (Tensor, optional): More unlabelled images, which lose channels of their
                features and get no representations. Shape (B'', 3, H, W).
            drop_prob (float): Of each channel to be lost.

        Returns:
            DenseOutput: Of the labelled images, the unlabelled ones, and the perturbed ones.

        Raises:
            ValueError: If they differ in size.
        """
        perturbed = unlabeled[:0] if perturbed is None else perturbed
        for images in (unlabeled, perturbed):
            if labeled.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f'labelled images are {tuple(labeled.shape[2:])} and unlabelled ones '
                    f'{tuple(images.shape[2:])} (height, width): give both the same crop_size')
        drop = dict(perturbed=len(perturbed), drop_prob=drop_prob)
        if self.semi_train_cfg['joint_forward']:
            return self.student.forward_dense(torch.cat([labeled, unlabeled, perturbed]), **drop)
        return DenseOutput.cat(
            self.student.forward_dense(labeled),
            self.student.forward_dense(torch.cat([unlabeled, perturbed]), **drop))

    def representation_losses(self, student: DenseOutput, labels: Tensor, teacher: DenseOutput,
                              weak: PseudoBatch, strong: PseudoBatch) -> dict[str, Tensor]:
        """The configured ``losses``: of pixels on both halves, of regions on the unlabelled half.

        Args:
            student (DenseOutput): Of the labelled images followed by the strong views.
            labels (Tensor): Of the labelled images. Shape (B, H, W), int64.
            teacher (DenseOutput): Of the weak views.
            weak (PseudoBatch): Unlabelled images as the teacher saw them.
            strong (PseudoBatch): Unlabelled images as the student saw them.

        Returns:
            dict[str, Tensor]: Each loss under its ``loss_name``.
        """
        losses = dict()
        if self.pixel_losses:
            losses.update(
                dense_losses(self.pixel_losses, student.embeddings,
                             torch.cat([labels, self.trusted(strong)]),
                             self.student.probabilities(student)))
        if self.region_losses:
            regions = self.match_regions(student.split(len(labels))[1], teacher, weak, strong)
            unread = no_loss(student.embeddings)  # by terms of masks alone
            losses.update({loss.loss_name: loss(*regions) + unread for loss in self.region_losses})
        return losses

    def trusted(self, batch: PseudoBatch) -> Tensor:
        """Pseudo-labels (B, H, W), ignored where the teacher is less sure than the threshold."""
        unsure = batch.confidence < self.semi_train_cfg['weak_threshold']
        return batch.labels.masked_fill(unsure, self.ignore_index)

    def match_regions(self, student: DenseOutput, teacher: DenseOutput, weak: PseudoBatch,
                      strong: PseudoBatch) -> tuple[RegionPrediction, RegionTarget]:
        """Regions of the student on strong views, and the teacher's that they are matched with.

        Args:
            student (DenseOutput): Of the strong views.
            teacher (DenseOutput): Of the weak views.
            weak (PseudoBatch): Unlabelled images as the teacher saw them.
            strong (PseudoBatch): The same as the student saw them, with their origin.

        Returns:
            tuple[RegionPrediction, RegionTarget]: At the resolution of the student's masks.
        """
        prediction, labels = self.student.regions(student), self.trusted(strong)
        settings = self.semi_train_cfg
        target = region_target(prediction, self.teacher.regions(teacher), labels,
                               labels != self.ignore_index, strong.origin,
                               tuple(weak.labels.shape[-2:]), settings['region_source'],
                               settings['weak_threshold'], settings['min_region_area'],
                               self.matcher)
        return prediction, target

    @property
    def _predictor(self) -> nn.Module:
        return getattr(self, self.semi_test_cfg['predict_on'])

    @property
    def out_channels(self) -> int:
        """Of the network that predicts; mmseg's test-time augmentation reads it."""
        return self._predictor.out_channels

    @property
    def decode_head(self) -> nn.Module:
        """Of the network that predicts; its threshold is read where it has one channel."""
        return self._predictor.decode_head

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


def pseudo_label_diagnostics(labels: Tensor, confidence: Tensor, data_samples: SampleList,
                             ignore_index: int) -> dict[str, Tensor]:
    """How sure the teacher is, and how often it is right, where a batch has hidden truth.

    Args:
        labels (Tensor): Teacher's labels. Shape (B, H, W), int64.
        confidence (Tensor): Their confidence. Shape (B, H, W).
        data_samples (list[SegDataSample]): Samples; ``hidden_sem_seg`` is used if all have it.
        ignore_index (int): Label of pixels without truth.

    Returns:
        dict[str, Tensor]: ``teacher_confidence`` and, with hidden truth, ``pseudo_label_acc``, in
        [0, 1]; without padding.
    """
    sizes = [sample.img_shape[:2] for sample in data_samples]
    images = [image[:height, :width].flatten()
              for image, (height, width) in zip(confidence, sizes, strict=True)]
    result = dict(teacher_confidence=torch.cat(images).mean())
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
