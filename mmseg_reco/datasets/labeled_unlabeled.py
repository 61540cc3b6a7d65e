# Licensed under the Apache License, Version 2.0.
"""From a stock training dataset to labelled and unlabelled images in one step."""

from collections.abc import Sequence
from functools import partial

from mmengine.dataset import ConcatDataset
from mmseg.registry import DATASETS

from .building import (
    LABEL_KEYS,
    build_datasets,
    check_list_file,
    explain_dataset_errors,
    list_path,
)
from .pipelines import checked_pipeline, leaf_configs, to_branch, weak_pipeline
from .pipelines import hide_labels as hide_labels_in


@DATASETS.register_module()
class LabeledUnlabeledDataset(ConcatDataset):
    """Labelled and unlabelled images of stock datasets, ready for the semi-supervised segmentor.

    ``datasets[0]`` holds the labelled images with the pipeline as it is given, ``datasets[1]`` the
    unlabelled ones in their weak view, see :func:`~mmseg_reco.datasets.pipelines.weak_pipeline`.
    Both end in ``MultiBranch`` with the branches ``sup`` and ``unsup``, and begin with loaders that
    refuse bad files by name (``LoadCheckedImage``, ``LoadCheckedAnnotations``) in the place of the
    stock ones. Meant for ``MultiSourceSampler``.

    Three situations:

    - Case I, few labelled images: ``labeled`` and ``unlabeled`` are lists of names.
    - Case II, a few labelled pixels in every image: neither; both halves hold all images with the
      pixels that are given (of a partial-label dataset, or of sparse masks on disk).
    - Unlabelled images in other folders: ``unlabeled`` is a dict of changes to the config for each.

    Args:
        dataset (dict): Config of a training dataset whose pipeline ends in ``PackSegInputs``, or of
            wrappers such as ``ConcatDataset`` around several.
        labeled (str, optional): List of the labelled images, read and located in ``data_root`` as
            the dataset's ``ann_file``, in that of each where there are several. None: the dataset
            as it is.
        unlabeled (str | dict | list, optional): List of the unlabelled images, or changes to the
            dataset config such as ``dict(data_prefix=dict(img_path='more_images'))``, which replace
            whole entries: without ``seg_map_path`` there are no masks, and with a new
            ``data_prefix`` but no ``ann_file`` all images of that folder are taken. Of several
            datasets, the first is what a change of ``data_root`` or ``data_prefix`` starts from.
            Several such entries in a list make one pool. None, together with ``labeled``: all
            images of the dataset.
        unlabeled_pipeline (list[dict], optional): Weak view, up to its ``PackSegInputs``, instead
            of the one told from the dataset's pipeline.
        hide_labels (bool, optional): Whether training must not see masks of the unlabelled images;
            they remain as ``hidden_sem_seg`` for diagnostics. None: yes, if ``unlabeled`` is given.
        lazy_init (bool): Of ``ConcatDataset``.

    Raises:
        ValueError: If ``labeled`` is given without ``unlabeled``, if a list is empty or holds a
            name twice, or if the config's structure does not allow the change; the message says
            which and what to do.
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
                 unlabeled: str | dict | Sequence[str | dict] | None = None,
                 unlabeled_pipeline: Sequence[dict] | None = None,
                 hide_labels: bool | None = None,
                 lazy_init: bool = False) -> None:
        if labeled is not None and unlabeled is None:
            raise ValueError(
                f"LabeledUnlabeledDataset has labeled='{labeled}', but no unlabeled=: give it the "
                'list of the unlabelled images. For partial labels of the images of that list, '
                'make it the ann_file of the dataset.')
        labeled_changes = {} if labeled is None else dict(ann_file=labeled)
        pool = [unlabeled] if unlabeled is None or isinstance(unlabeled, (str, dict)) else unlabeled
        pool = [_changes(entry, labeled_changes) for entry in pool]
        if hide_labels is None:
            hide_labels = unlabeled is not None

        def labeled_part(config: dict) -> dict:
            config.update(labeled_changes)
            config['pipeline'] = to_branch(config['pipeline'], 'sup',
                                           config.get('ignore_index', 255))
            config['pipeline'] = checked_pipeline(config)
            return config

        def unlabeled_part(config: dict, changes: dict) -> dict:
            config.update(changes)
            config['pipeline'] = unlabeled_pipeline or weak_pipeline(config['pipeline'])
            pipeline, ignore_index = checked_pipeline(config), config.get('ignore_index', 255)
            if hide_labels:
                pipeline = hide_labels_in(pipeline, ignore_index)
            config['pipeline'] = to_branch(pipeline, 'unsup', ignore_index)
            return config

        with explain_dataset_errors():
            _check_lists(dataset, labeled_changes)
            labeled_images = build_datasets(dataset, labeled_part)
            parts = []
            for changes in pool:
                base = _changed(dataset, changes)
                _check_lists(base, changes)
                parts.append(build_datasets(base, partial(unlabeled_part, changes=changes)))
            keys = ['classes', *LABEL_KEYS]  # need not be those of the labelled images
            if len(parts) > 1:
                parts = [dict(type='ConcatDataset', datasets=parts, ignore_keys=keys)]
            super().__init__([labeled_images, *parts], lazy_init=lazy_init, ignore_keys=keys)


def _changes(entry: str | dict | None, labeled_changes: dict) -> dict:
    """What an entry of ``unlabeled`` changes in a dataset's config."""
    if entry is None:
        return labeled_changes
    if isinstance(entry, str):
        return dict(ann_file=entry)
    return {**(dict(ann_file='') if 'data_prefix' in entry else {}), **entry}


def _changed(config: dict, changes: dict) -> dict:
    """What the changes are made to: all datasets, or the first, if they name one folder."""
    leaves = leaf_configs(config)
    names_folder = 'data_root' in changes or 'data_prefix' in changes
    return leaves[0] if names_folder and len(leaves) > 1 else config


def _check_lists(config: dict, changes: dict) -> None:
    """Refuse lists that are missing or empty, and one list for several datasets."""
    if not changes:
        return
    leaves = [{**leaf, **changes} for leaf in leaf_configs(config)]
    lists = [list_path(leaf) for leaf in leaves]
    for name in filter(None, lists):
        if lists.count(name) > 1:
            raise ValueError(
                f"The list '{name}' would be that of every dataset of a concatenation of several: "
                'give one dataset that covers all images, such as VOC with the list train_aug.txt '
                'and the masks SegmentationClassAug, or datasets that each have a data_root of '
                'their own with a list of that name.')
    for leaf in leaves:
        check_list_file(leaf)
