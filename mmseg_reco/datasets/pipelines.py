# Licensed under the Apache License, Version 2.0.
"""Editing of stock training pipelines: partial labels, the weak view, the branches."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from mmseg_reco.utils import type_name

_STOCK_IMAGE_LOADERS = 'LoadImageFromFile', 'mmcv.LoadImageFromFile', LoadImageFromFile
_STOCK_MASK_LOADERS = 'LoadAnnotations', 'mmseg.LoadAnnotations', LoadAnnotations
# Absent from the weak view. What changes every image in the same way (CLAHE, AdjustGamma, Rerange,
# RGB2Gray, ...) stays: it is preprocessing, which teacher and student both expect.
RANDOM_TRANSFORMS = frozenset({
    'Albu', 'BioMedical3DRandomFlip', 'BioMedicalGaussianBlur', 'BioMedicalGaussianNoise',
    'BioMedicalRandomGamma', 'PhotoMetricDistortion', 'RandomApply', 'RandomColorJitter',
    'RandomCutOut', 'RandomDepthMix', 'RandomErasing', 'RandomFlip', 'RandomGaussianBlur',
    'RandomGrayscale', 'RandomMosaic', 'RandomRotFlip', 'RandomRotate',
})


def leaf_configs(config: dict) -> list[dict]:
    """The configs of the datasets inside wrappers such as ``ConcatDataset``."""
    if 'dataset' in config:
        return leaf_configs(config['dataset'])
    inner = config.get('datasets', ())
    return [leaf for part in inner for leaf in leaf_configs(part)] or [config]


def map_leaf_configs(config: dict, edit: Callable[[dict], dict]) -> dict:
    """Apply ``edit`` to every dataset config with a pipeline below wrappers.

    Args:
        config (dict): Config of a dataset, or of wrappers such as ``ConcatDataset`` and
            ``RepeatDataset`` around datasets.
        edit (Callable): Gets a copy of each inner config and returns its replacement.

    Returns:
        dict: The edited copy.

    Raises:
        ValueError: If a wrapper has a pipeline of its own, or a dataset has none.
    """
    config = dict(config)
    wrapped = [key for key in ('dataset', 'datasets') if key in config]
    name = type_name(config)
    if wrapped and 'pipeline' in config:
        raise ValueError(
            f"Dataset '{name}' has a pipeline of its own, which may put images together, and so "
            'labelled and unlabelled ones: take the dataset that it wraps, with a pipeline without '
            'such transforms, in its place.')
    if not wrapped and 'pipeline' not in config:
        raise ValueError(
            f"Dataset '{name}' must either have a pipeline or wrap datasets that have one, so that "
            'its images can be given to the labelled and unlabelled branches.')
    if not wrapped:
        return edit(deepcopy(config))
    if 'dataset' in config:
        config['dataset'] = map_leaf_configs(config['dataset'], edit)
    else:
        config['datasets'] = [map_leaf_configs(inner, edit) for inner in config['datasets']]
    return config


def find_annotation_loader(pipeline: Sequence) -> int | None:
    """Position of the transform that loads the masks (``LoadAnnotations`` and its like)."""
    for position, transform in enumerate(pipeline):
        name = type_name(transform)
        if name.startswith('Load') and 'Annotation' in name and 'Depth' not in name:
            return position
    return None


def checked_pipeline(config: dict) -> list:
    """Put loaders that refuse bad files by name in the place of the stock ones.

    They, too, get the dataset's ``backend_args``, unless they have some of their own.

    Args:
        config (dict): Config of one dataset, without wrappers.

    Returns:
        list: Its pipeline; loaders other than the stock ones stay.
    """
    dataset = config['type']
    dataset = DATASETS.get(dataset) if isinstance(dataset, str) else dataset
    classes = ((config.get('metainfo') or {}).get('classes')
               or getattr(dataset, 'METAINFO', {}).get('classes'))
    pipeline = []
    storage = {'backend_args': config['backend_args']} if config.get('backend_args') else {}
    for transform in config['pipeline']:
        kind = transform['type'] if isinstance(transform, dict) else None
        if kind in _STOCK_IMAGE_LOADERS and 'file_client_args' not in transform:
            transform = dict(transform, type='LoadCheckedImage')
        elif kind in _STOCK_MASK_LOADERS:
            # a string names a file with the classes
            known = None if classes is None or isinstance(classes, str) else len(classes)
            transform = dict(transform, type='LoadCheckedAnnotations', num_classes=known,
                             ignore_index=config.get('ignore_index', 255))
        if (isinstance(transform, dict) and not transform.get('backend_args')
                and transform['type'] in ('LoadCheckedImage', 'LoadCheckedAnnotations')):
            transform = {**transform, **storage}
        pipeline.append(transform)
    return pipeline


def sparsify_pipeline(pipeline: Sequence, level: str | None, seed: int,
                      ignore_index: int = 255) -> list:
    """Insert ``SparsifyLabels`` behind the annotation loader.

    A fixed ``Resize`` that follows the loader stays before it: scaled down by nearest neighbour,
    most of the single pixels of p0 would be lost. The paper, too, sparsifies masks of training
    size. Both halves of a training have the same fixed resizes, and so the same pixels.

    Args:
        pipeline (Sequence): Training pipeline.
        level (str, optional): Level of partial labels; None leaves the labels complete.
        seed (int): Seed of the partial labels.
        ignore_index (int): Label of pixels without a class.

    Returns:
        list: The pipeline.

    Raises:
        ValueError: If a level is given, but the pipeline loads no annotations.
    """
    pipeline = list(pipeline)
    # labels that are hidden need not be thinned out
    if level is None or any(type_name(item) == 'HideLabels' for item in pipeline):
        return pipeline
    position = find_annotation_loader(pipeline)
    if position is None:
        raise ValueError(f"Partial labels of level '{level}' need annotations, but the pipeline "
                         'has no LoadAnnotations.')
    position += 1
    while position < len(pipeline) and type_name(pipeline[position]) == 'Resize':
        position += 1
    pipeline.insert(position, dict(
        type='SparsifyLabels', level=level, seed=seed, ignore_index=ignore_index))
    return pipeline


def weak_pipeline(pipeline: Sequence) -> list:
    """The view of unlabelled images: "only a crop at scale 1, no flip" (ReCo, published code).

    Loaders, fixed resizes, crops, padding and transforms unknown here stay. Random rescaling
    keeps to its nominal scale, crops stop looking at labels, and ``RANDOM_TRANSFORMS`` go.

    Args:
        pipeline (Sequence): Training pipeline of labelled images, as configs.

    Returns:
        list: The pipeline of the weak view.

    Raises:
        ValueError: If the pipeline chooses between pipelines at random.
    """
    weak = []
    for transform in deepcopy(list(pipeline)):
        name = type_name(transform)
        if name in RANDOM_TRANSFORMS:
            continue
        if name in ('RandomChoice', 'RandomOrder'):
            raise ValueError(f'No weak view can be told from a pipeline with {name}: give the '
                             'pipeline of unlabelled images as unlabeled_pipeline.')
        if name == 'RandomResize':
            transform = _nominal_resize(transform)
        elif name == 'RandomChoiceResize':
            transform = _nominal_choice(transform)
        elif name == 'RandomCrop':
            transform['cat_max_ratio'] = 1.0
        elif name == 'RandomRescaleCrop':
            transform['ratio_range'] = (1.0, 1.0)
        weak.append(transform)
    return weak


def _nominal_resize(transform: dict) -> dict:
    """``RandomResize`` at ratio 1, or half-way between its two scales."""
    if transform.get('ratio_range') is None:
        low, high = transform['scale']
        transform['scale'] = tuple((a + b) // 2 for a, b in zip(low, high, strict=True))
    return dict(transform, ratio_range=(1.0, 1.0))


def _nominal_choice(transform: dict) -> dict:
    """``RandomChoiceResize`` at the scale nearest to the geometric middle of its scales."""
    scales = transform['scales']
    scales = scales if isinstance(scales, list) else [scales]
    sizes = [math.prod(scale) ** 0.5 if isinstance(scale, Sequence) else scale for scale in scales]
    middle = math.sqrt(min(sizes) * max(sizes))
    return dict(transform, scales=[min(zip(sizes, scales, strict=True),
                                       key=lambda pair: abs(pair[0] - middle))[1]])


def hide_labels(pipeline: Sequence, ignore_index: int = 255) -> list:
    """Replace the annotation loader by ``HideLabels`` around it; without one, add ``HideLabels``
    before the packing."""
    hide = dict(type='HideLabels', ignore_index=ignore_index)
    pipeline = list(pipeline)
    position = find_annotation_loader(pipeline)
    if position is None:
        pipeline.insert(len(pipeline) - 1, hide)
    else:
        pipeline[position] = dict(hide, loader=pipeline[position])
    return pipeline


def to_branch(pipeline: Sequence, branch: str, ignore_index: int = 255) -> list:
    """Replace the final ``PackSegInputs`` by ``MultiBranch`` with that packing on one branch.

    Args:
        pipeline (Sequence): Pipeline that ends in ``PackSegInputs``.
        branch (str): 'sup' or 'unsup'.
        ignore_index (int): Label of pixels without a class.

    Returns:
        list: The pipeline.

    Raises:
        ValueError: If the pipeline ends in anything else.
    """
    *head, packing = pipeline
    if type_name(packing) not in ('PackSegInputs', 'PackSemiSegInputs'):
        raise ValueError(f'A training pipeline must end in PackSegInputs, but this one ends in '
                         f'{type_name(packing)}.')
    packing = dict(packing, type='PackSemiSegInputs', ignore_index=ignore_index)
    return [*head, dict(type='MultiBranch', branch_field=['sup', 'unsup'], **{branch: [packing]})]
