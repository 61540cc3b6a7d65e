# Licensed under the Apache License, Version 2.0.
from collections.abc import Sequence

from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList
from torch import Tensor

from .dense import stack_labels
from .semi_base import SemiBaseSegmentor


@MODELS.register_module()
class RC2L(SemiBaseSegmentor):
    """Region-level contrast and consistency (RC²L, IJCAI 2022, arXiv 2204.13314).

    The paper publishes the four terms and what they compare; their formulas, and the defaults here,
    are this project's reconstruction. The teacher sees weak views and finds regions in them. The
    student sees strong views of the same images, mixed and recoloured; the teacher's maps are mixed
    along. Teacher and student regions are matched, and the terms compare the pairs: masks (RMC),
    features (RFC), classes (RCC), and the union of the regions of each class (SMC).

    It runs on MaskFormer and Mask2Former (regions are queries, matched by the Hungarian algorithm)
    and, without RCC, on any per-pixel head (regions are the soft masks of the classes, matched by
    class), which goes beyond the paper.

    Args:
        segmentor (dict): Config of any stock ``EncoderDecoder``.
        losses (Sequence[dict]): Terms, each with its ``loss_weight``. Losses of pixels, such as
            ``ReCoLoss``, may join.
        mix (dict, optional): ``ClassMix``, ``CutMix`` or ``CutOut``; None for no mixing.
        strong_augments (Sequence[dict]): See :class:`SemiBaseSegmentor`.
        **kwargs: Of :class:`SemiBaseSegmentor`.
    """

    def __init__(self,
                 segmentor: ConfigType,
                 losses: Sequence[ConfigType] = (dict(type='RegionMaskContrastiveLoss'),
                                                 dict(type='RegionFeatureContrastiveLoss'),
                                                 dict(type='RegionClassConsistencyLoss'),
                                                 dict(type='SemanticMaskConsistencyLoss')),
                 mix: OptConfigType = dict(type='ClassMix'),
                 strong_augments: Sequence[ConfigType] = (dict(type='BatchColorJitter'),
                                                          dict(type='BatchGaussianBlur')),
                 **kwargs) -> None:
        super().__init__(segmentor, losses, mix=mix, strong_augments=strong_augments, **kwargs)

    def step(self, inputs: dict[str, Tensor],
             data_samples: dict[str, SampleList]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One training step; see :meth:`SemiBaseSegmentor.step`."""
        weak, teacher, strong = self.unlabeled_views(inputs, data_samples)
        student = self.forward_student(inputs['sup'], strong.images)
        labels = stack_labels(data_samples['sup'])
        unsupervised = self.representation_losses(student, labels, teacher, weak, strong)
        # Last, since stock heads wait for a GPU, which has the above to do meanwhile.
        return self.given_losses(student, data_samples, strong), unsupervised
