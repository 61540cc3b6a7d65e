# Licensed under the Apache License, Version 2.0.
"""Datasets with partial labels (Case II of ReCo): every image keeps a few labelled pixels."""

from collections.abc import Sequence

from mmengine.dataset import ConcatDataset
from mmseg.datasets import CityscapesDataset, PascalVOCDataset
from mmseg.registry import DATASETS

from .building import build_datasets, explain_dataset_errors
from .camvid import CamVidDataset
from .pipelines import checked_pipeline, sparsify_pipeline
from .sunrgbd import SUNRGBDDataset


@DATASETS.register_module()
class PartialLabelDataset(ConcatDataset):
    """Any mmseg dataset with partial labels made on the fly.

    Masks that ``tools/dataset_converters/partial_labels.py`` wrote beforehand need none of this:
    there, ``data_prefix.seg_map_path`` of the ordinary dataset points at them.

    Args:
        dataset (dict): Config of the dataset, or of wrappers around datasets. ``SparsifyLabels`` is
            inserted behind its ``LoadAnnotations`` (and a fixed ``Resize`` that follows).
        level (str, optional): 'p0' for one pixel per class and image, 'p1', 'p5' or 'p25' for that
            percentage of each class; None for complete labels.
        seed (int): Seed of the choice of pixels.
        lazy_init (bool): Of ``ConcatDataset``.

    Raises:
        ValueError: If the pipeline loads no annotations, or the level is unknown.
    """

    def __init__(self,
                 dataset: dict,
                 level: str | None,
                 seed: int = 0,
                 lazy_init: bool = False) -> None:
        def sparse(config: dict) -> dict:
            pipeline = sparsify_pipeline(
                checked_pipeline(config), level, seed, config.get('ignore_index', 255))
            return {**config, 'pipeline': pipeline}

        with explain_dataset_errors():
            super().__init__([build_datasets(dataset, sparse)], lazy_init=lazy_init)


class PartialLabelMixin:
    """Adds ``level`` and ``seed``, see :class:`PartialLabelDataset`, to a dataset class."""

    def __init__(self,
                 *args,
                 level: str | None = None,
                 seed: int = 0,
                 pipeline: Sequence = (),
                 **kwargs) -> None:
        pipeline = checked_pipeline(dict(kwargs, type=type(self), pipeline=pipeline))
        pipeline = sparsify_pipeline(pipeline, level, seed, kwargs.get('ignore_index', 255))
        super().__init__(*args, pipeline=pipeline, **kwargs)


@DATASETS.register_module()
class PartialVOCDataset(PartialLabelMixin, PascalVOCDataset):
    """PASCAL VOC (with the masks of ``SegmentationClassAug``) with partial labels."""


@DATASETS.register_module()
class PartialCityscapesDataset(PartialLabelMixin, CityscapesDataset):
    """Cityscapes with partial labels."""


@DATASETS.register_module()
class PartialSUNRGBDDataset(PartialLabelMixin, SUNRGBDDataset):
    """SUN RGB-D with partial labels."""


@DATASETS.register_module()
class PartialCamVidDataset(PartialLabelMixin, CamVidDataset):
    """CamVid with partial labels."""
