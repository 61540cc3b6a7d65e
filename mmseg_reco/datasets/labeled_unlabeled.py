# Licensed under the Apache License, Version 2.0.
"""From a stock training dataset to labelled and unlabelled images in one step."""

import os.path as osp
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmengine.dataset import ConcatDataset
from mmengine.fileio import exists, join_path
from mmengine.utils import is_abs
from mmseg.registry import DATASETS

from .pipelines import checked_pipeline, map_leaf_configs, to_branch, weak_pipeline
from .pipelines import hide_labels as hide_labels_in
from .splits import read_names


@DATASETS.register_module()
class LabeledUnlabeledDataset(ConcatDataset):
    """Labelled and unlabelled images of one stock dataset, ready for the semi-supervised segmentor.

    ``datasets[0]`` holds the labelled images with the pipeline as it is given, ``datasets[1]`` the
    unlabelled ones in their weak view, see :func:`~mmseg_reco.datasets.pipelines.weak_pipeline`.
    Both end in ``MultiBranch`` with the branches ``sup`` and ``unsup``, and begin with loaders that
    refuse bad files by name (``LoadCheckedImage``, ``LoadCheckedAnnotations``) in the place of the
    stock ones. Meant for ``MultiSourceSampler``.

    Three situations:

    - Case I, few labelled images: ``labeled`` and ``unlabeled`` are lists of names.
    - Case II, a few labelled pixels in every image: neither; both halves hold all images with the
      pixels that are given (of a partial-label dataset, or of sparse masks on disk).
    - Unlabelled images in another folder: ``unlabeled`` is a dict of changes to the config.

    Args:
        dataset (dict): Config of a training dataset whose pipeline ends in ``PackSegInputs``.
        labeled (str, optional): List of the labelled images, read and located in ``data_root`` as
            the dataset's ``ann_file``. None: the dataset as it is.
        unlabeled (str | dict, optional): List of the unlabelled images, or changes to the dataset
            config such as ``dict(data_prefix=dict(img_path='more_images'))``, which replace whole
            entries: without ``seg_map_path`` there are no masks, and with a new ``data_prefix``
            but no ``ann_file`` all images of that folder are taken. None: the labelled images.
        unlabeled_pipeline (list[dict], optional): Weak view, up to its ``PackSegInputs``, instead
            of the one told from the dataset's pipeline.
        hide_labels (bool, optional): Whether training must not see masks of the unlabelled images;
            they remain as ``hidden_sem_seg`` for diagnostics. None: yes, if ``unlabeled`` is given.
        lazy_init (bool): Of ``ConcatDataset``.

    Raises:
        ValueError: If a list is empty or holds a name twice, or if the config's structure does not
            allow the change; the message says which and what to do.
        FileNotFoundError: If a list does not exist.

    Examples:
        >>> train_dataloader = dict(
        >>>     batch_size=4,
        >>>     sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=4,
        >>>                  source_ratio=[1, 1]),
        >>>     dataset=dict(_delete_=True, type='LabeledUnlabeledDataset',
        >>>                  dataset=_base_.train_dataloader.dataset,
        >>>                  labeled='labeled.txt', unlabeled='unlabeled.txt'))
    """

    def __init__(self,
                 dataset: dict,
                 labeled: str | None = None,
                 unlabeled: str | dict | None = None,
                 unlabeled_pipeline: Sequence[dict] | None = None,
                 hide_labels: bool | None = None,
                 lazy_init: bool = False) -> None:
        labeled_changes = {} if labeled is None else dict(ann_file=labeled)
        if isinstance(unlabeled, dict):
            unlabeled_changes = dict(unlabeled)
            if 'data_prefix' in unlabeled:
                unlabeled_changes.setdefault('ann_file', '')
        else:
            unlabeled_changes = labeled_changes if unlabeled is None else dict(ann_file=unlabeled)
        if hide_labels is None:
            hide_labels = unlabeled is not None

        def labeled_part(config: dict) -> dict:
            config.update(labeled_changes)
            config['pipeline'] = to_branch(config['pipeline'], 'sup')
            config['pipeline'] = checked_pipeline(config)
            return config

        def unlabeled_part(config: dict) -> dict:
            config.update(unlabeled_changes)
            config['pipeline'] = unlabeled_pipeline or weak_pipeline(config['pipeline'])
            pipeline = checked_pipeline(config)
            if hide_labels:
                pipeline = hide_labels_in(pipeline)
            config['pipeline'] = to_branch(pipeline, 'unsup')
            return config

        for changes in (labeled_changes, unlabeled_changes):
            if changes:
                _check_changes(dataset, changes)
        with nothing_found_explained():
            super().__init__([map_leaf_configs(dataset, labeled_part),
                              map_leaf_configs(dataset, unlabeled_part)], lazy_init=lazy_init)


@contextmanager
def nothing_found_explained() -> Iterator[None]:
    """Say what a dataset without folder or images means, on which mmengine fails elsewhere.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: In the place of NumPy's, as an empty list cannot be serialised.
    """
    try:
        yield
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(
            f"'{error.filename}' does not exist: check data_root and data_prefix.") from error
    except ValueError as error:
        if 'at least one array' not in str(error):
            raise
        raise ValueError(
            'The training data, or a part of them, hold no image: check data_root and '
            'data_prefix, and img_suffix, which must be that of the files (by default .jpg).'
        ) from error


def _check_changes(config: dict, changes: dict) -> None:
    """Refuse changes that would hit several datasets, and lists that are missing or empty."""
    while 'dataset' in config:
        config = config['dataset']
    if 'datasets' in config:
        raise ValueError(
            'labeled and unlabeled name images of one dataset, but this one is a concatenation of '
            'several: give one dataset that covers all images, such as VOC with the list '
            'train_aug.txt and the masks SegmentationClassAug.')
    check_list_file({**config, **changes})


def check_list_file(config: dict) -> None:
    """Refuse a dataset config whose list of images (``ann_file``) is of no use.

    Args:
        config (dict): Config of one dataset, without wrappers.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is empty or holds a name twice.
    """
    path, root = config.get('ann_file'), config.get('data_root')
    if not path or osp.isdir(path):
        return
    if root and not is_abs(path):
        path = join_path(root, path)
    if not exists(path, backend_args=config.get('backend_args')):
        raise FileNotFoundError(f"The list of images '{path}' does not exist; lists are looked up "
                                'in data_root, unless their path is absolute.')
    read_names(path, backend_args=config.get('backend_args'))
