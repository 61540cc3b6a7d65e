# Licensed under the Apache License, Version 2.0.
"""Bad data found and named: before training in seconds, or all of it by ``tools/check_data.py``."""

import os.path as osp
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import BaseDataset
from PIL import Image

from mmseg_reco.utils import type_name

from .files import is_local, list_files, read
from .labeled_unlabeled import LabeledUnlabeledDataset
from .transforms import HideLabels, MultiBranch, SparsifyLabels
from .transforms.loading import is_cut_short

INDEX_MODES = '1', 'L', 'P'  # Pillow's names for images of at most 8 bits and one channel
IMAGE_SUFFIXES = '.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp'
EXIF_ORIENTATION, EXIF_SIDEWAYS = 274, (5, 6, 7, 8)
_HEADS, _EDGE_HEAD = ('decode_head', 'auxiliary_head'), 'STDCHead'
QUICK_PAIRS = 32  # images and masks of each dataset that the check before training reads


class Problem(NamedTuple):
    """What is wrong with which file; a list or dataset counts as a file."""

    file: str
    text: str


@dataclass
class Report:
    """What the masks of one dataset hold, after ``reduce_zero_label`` and ``label_map``.

    Attributes:
        name: Name of the dataset, such as 'train.labeled'.
        classes: Names of the C classes; empty if the dataset does not name them.
        num_images: Number of images.
        pixels: Pixels per class, shape (C,), dtype int64.
        ignored: Number of pixels without a class.
        masks: Number of masks that were read.
        level: What ``SparsifyLabels`` keeps of these masks, counted whole here; None for all.
        problems: Bad files.
    """

    name: str
    classes: tuple[str, ...]
    num_images: int
    pixels: np.ndarray
    ignored: int = 0
    masks: int = 0
    level: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def absent(self) -> list[str]:
        """Names of the classes without a pixel."""
        return [self.classes[index] for index in np.flatnonzero(self.pixels == 0)]

    @property
    def remarks(self) -> list[str]:
        """Classes without a pixel, if others have some."""
        if not self.pixels.any() or not self.absent:
            return []
        hint = ''
        if self.ignored and not self.pixels[1:].any():
            hint = (' All its other pixels are ignored (255): if 255 stands for a class in its '
                    'masks, save them with 1 in its place.')
        where = ('' if self.masks == self.num_images else
                 f', in the {self.masks} masks that were read')
        return [f'{self.name} has no pixel of: {", ".join(self.absent)}{where}.{hint}']


def leaf_datasets(dataset, name: str) -> dict[str, BaseDataset]:
    """The datasets inside wrappers such as ``ConcatDataset``, by dotted name."""
    if hasattr(dataset, 'datasets'):
        keys = (('labeled', 'unlabeled') if isinstance(dataset, LabeledUnlabeledDataset) else
                range(len(dataset.datasets)))
        parts = {f'{name}.{key}': part for key, part in zip(keys, dataset.datasets, strict=True)}
        if len(parts) == 1:
            parts = {name: dataset.datasets[0]}
        return {leaf: data for key, part in parts.items()
                for leaf, data in leaf_datasets(part, key).items()}
    if hasattr(dataset, 'dataset'):
        return leaf_datasets(dataset.dataset, name)
    return {name: dataset}


def labels_are_given(dataset: BaseDataset) -> bool:
    """Whether the pipeline loads masks for use, so that an image without one is bad."""
    return any(isinstance(step, LoadAnnotations) for step in dataset.pipeline.transforms)


def _steps(dataset: BaseDataset) -> list:
    """The transforms of the pipeline, with the loader of masks that ``HideLabels`` runs."""
    return [step.loader if isinstance(step, HideLabels) else step
            for step in dataset.pipeline.transforms]


def _masks_are_read(dataset: BaseDataset) -> bool:
    return any(isinstance(step, LoadAnnotations) for step in _steps(dataset))


class Files(NamedTuple):
    """Paths of a dataset's images, and of its masks (None for one without) if they are loaded."""

    images: list[str]
    masks: list[str | None]


def listed_files(dataset: BaseDataset) -> Files:
    """All paths of a dataset without wrappers, in one run through it."""
    files, with_masks = Files([], []), labels_are_given(dataset)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        files.images.append(info['img_path'])
        if with_masks:
            files.masks.append(info.get('seg_map_path'))
    return files


def _storage(dataset: BaseDataset, loader: type) -> dict | None:
    """The ``backend_args`` that a dataset's images or masks are loaded with."""
    for step in _steps(dataset):
        if isinstance(step, loader):
            return step.backend_args
    return getattr(dataset, 'backend_args', None)


def _missing(paths: list[str], what: str, backend_args: dict | None) -> list[Problem]:
    """The files that do not exist: one listing per folder, as 100,000 names need it.

    Only local folders are listed; other storage answers when a file is read.
    """
    folders: dict[str, set[str]] = {}
    missing, unreadable = [], {}
    for path in paths:
        folder, file = osp.split(path)
        if folder not in folders:
            if not is_local(path, backend_args):
                return []
            folders[folder] = set()
            try:
                if osp.isdir(folder):
                    folders[folder].update(list_files(folder))
            except OSError as error:
                unreadable[folder] = Problem(
                    folder, f'the folder of {len(paths)} {what}s cannot be read: {error.strerror}')
        if file not in folders[folder] and folder not in unreadable:
            hint = ''
            if '\ufeff' in path:
                hint = ': its list begins with a byte order mark; save it as UTF-8 without one'
            elif file.startswith('.'):
                hint = ': its list holds an empty line'
            elif osp.splitext(osp.splitext(file)[0])[1].lower() in IMAGE_SUFFIXES:
                hint = ': names in a list stand without their suffix'
            missing.append(Problem(path, f'{what} is missing{hint}'))
    return [*unreadable.values(), *missing]


def check_files(dataset: BaseDataset, name: str, files: Files | None = None) -> list[Problem]:
    """Empty dataset, names listed twice, missing images and masks.

    Args:
        dataset (BaseDataset): A dataset without wrappers.
        name (str): Its name in the messages.
        files (Files, optional): What :func:`listed_files` gives for it.

    Returns:
        list[Problem]: What is wrong, sorted as the dataset is.
    """
    source = getattr(dataset, 'ann_file', '') or dataset.data_prefix.get('img_path', name)
    if len(dataset) == 0:
        return [Problem(source, f'{name} holds no image')]
    images, masks = files or listed_files(dataset)
    problems = []
    if len(set(images)) < len(images):
        problems = [Problem(image, f'listed {count} times in {source}')
                    for image, count in Counter(images).items() if count > 1]
    problems += _missing(images, 'image', _storage(dataset, LoadImageFromFile))
    if None in masks:
        problems.append(Problem(
            source, f'{name} loads annotations, but has no data_prefix.seg_map_path'))
    else:
        problems += _missing(masks, 'mask', _storage(dataset, LoadAnnotations))
    return problems


def check_overlaps(
    train: dict[str, BaseDataset],
    val: dict[str, BaseDataset],
    files: dict[str, Files] | None = None,
) -> tuple[list[Problem], list[str]]:
    """Images shared by training and validation, or by the labelled and the unlabelled part.

    Args:
        train (dict[str, BaseDataset]): Training datasets, by name.
        val (dict[str, BaseDataset]): Validation datasets, by name.
        files (dict[str, Files], optional): What :func:`listed_files` gives for them, by name.

    Returns:
        tuple[list[Problem], list[str]]: Images with labels for training that are validated on as
        well, which is bad; and remarks about images that are shared otherwise.
    """
    paths = {name: _absolute((files or {}).get(name) or listed_files(dataset))
             for name, dataset in {**train, **val}.items()}
    problems, remarks = [], []
    for name, dataset in train.items():
        for other in val:
            shared = sorted(paths[name] & paths[other])
            if labels_are_given(dataset):
                problems += [Problem(file, f'in {name} and in {other}') for file in shared]
            elif shared:
                remarks.append(f'{len(shared)} images without labels of {name} are in {other} too.')
        if '.unlabeled' in name and not labels_are_given(dataset):
            for labeled in train:
                shared = '.labeled' in labeled and paths[name] & paths[labeled]
                if shared:
                    hint = ('' if shared < paths[name] else ', and no others. Where that is not '
                            'meant, LabeledUnlabeledDataset lacks its labeled=')
                    remarks.append(f'{len(shared)} images of {labeled} are in {name} too{hint}.')
    return problems, remarks


def _absolute(files: Files) -> set[str]:
    """Paths of the images from the root of the file system; addresses as they are."""
    absolute = cache(lambda folder: folder if '://' in folder else osp.abspath(folder))
    paths = set()
    for path in files.images:
        folder, file = osp.split(path)
        # one that is absolute already is not stored again
        paths.add(path if absolute(folder) == folder else osp.join(absolute(folder), file))
    return paths


def check_num_classes(parts: dict[str, BaseDataset], model: dict | None) -> list[Problem]:
    """Datasets that name another number of classes than the model predicts.

    Args:
        parts (dict[str, BaseDataset]): Datasets without wrappers, by name.
        model (dict, optional): Config of the model; all its decode and auxiliary heads count,
            save those that learn edges.

    Returns:
        list[Problem]: What is wrong.
    """
    heads = {place: head['num_classes'] for place, head in _heads(model)
             if _EDGE_HEAD not in str(head.get('type'))}
    problems = []
    for name, dataset in parts.items():
        named = len(dataset.metainfo.get('classes', ()))
        others = [f'{place}.num_classes={count}' for place, count in heads.items()
                  if count != named]
        if named and others:
            problems.append(Problem(
                name, f'has {named} classes, but {", ".join(others)}: make them equal'))
    return problems


def branches(dataset: BaseDataset) -> set[str]:
    """Branches that each image of a dataset without wrappers is given to."""
    return {branch for step in dataset.pipeline.transforms if isinstance(step, MultiBranch)
            for branch in step.branch_pipelines}


def check_branches(parts: dict[str, BaseDataset], model: dict | None) -> list[Problem]:
    """Training data without the branches that a semi-supervised model asks for.

    Args:
        parts (dict[str, BaseDataset]): Training datasets without wrappers, by name.
        model (dict, optional): Config of the model; one around a ``segmentor`` has a student and a
            teacher, which want labelled and unlabelled images.

    Returns:
        list[Problem]: What is wrong.
    """
    if not isinstance(model, dict) or 'segmentor' not in model:
        return []
    given = set().union(*map(branches, parts.values()))
    return [Problem('train_dataloader.dataset', f"gives no images to the branch '{branch}' of "
                    f'{model.get("type")}: wrap it in LabeledUnlabeledDataset')
            for branch in ('sup', 'unsup') if branch not in given]


def check_losses(model: dict | None) -> list[Problem]:
    """Losses of heads that fail in mmseg: beside a pixel sampler (OHEM), or by their weights.

    Args:
        model (dict, optional): Config of the model.

    Returns:
        list[Problem]: What is wrong.
    """
    problems = []
    for place, head in _heads(model):
        losses = head.get('loss_decode') or []
        losses = ({f'[{index}]': loss for index, loss in enumerate(losses)}
                  if isinstance(losses, (list, tuple)) else {'': losses})
        for index, loss in losses.items():
            weights = loss.get('class_weight')
            if head.get('sampler') and type_name(loss) == 'DiceLoss':
                problems.append(Problem(
                    place, "has a pixel sampler and mmseg's DiceLoss, which takes no weights of "
                    'pixels: remove one of them'))
            softmax = not (loss.get('use_sigmoid') or loss.get('use_mask'))
            if (isinstance(weights, (list, tuple)) and softmax
                    and len(weights) != head['num_classes']):
                problems.append(Problem(
                    f'{place}.loss_decode{index}.class_weight', f'has {len(weights)} numbers for '
                    f'{head["num_classes"]} classes: give one for each'))
    return problems


def _heads(node, place: str = 'model', within: bool = False) -> Iterator[tuple[str, dict]]:
    """Every config with ``num_classes`` in the decode and auxiliary heads, with its place."""
    if isinstance(node, (list, tuple)):
        for index, part in enumerate(node):
            yield from _heads(part, f'{place}[{index}]', within)
    elif isinstance(node, dict):
        if within and node.get('num_classes'):
            yield place, node
        for key, part in node.items():
            yield from _heads(part, f'{place}.{key}', within or key in _HEADS)


def _training_labels(info: dict) -> np.ndarray:
    """Label in training of every label 0-255 in a file: as mmseg's ``LoadAnnotations`` has it."""
    labels = np.arange(256)
    if info.get('reduce_zero_label'):
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
    mapped = labels.copy()
    for old, new in (info.get('label_map') or {}).items():
        mapped[labels == old] = new
    return mapped


def _loaded_size(path: str, backend_args: dict | None) -> tuple[int, int]:
    """Width and height that an image will have once loaded.

    Raises:
        OSError: It is no image, or not the whole of one.
    """
    data = read(path, backend_args)
    if not data:
        raise OSError('the file is empty')
    if is_cut_short(data):
        raise OSError('the file is cut short')
    with Image.open(BytesIO(data)) as image:
        # mmcv turns photographs upright, as their EXIF header says
        sideways = image.getexif().get(EXIF_ORIENTATION) in EXIF_SIDEWAYS
        return image.size[::-1] if sideways else image.size


def check_pair(dataset: BaseDataset, info: dict) -> tuple[np.ndarray | None, list[Problem]]:
    """One image and its mask.

    Args:
        dataset (BaseDataset): The dataset.
        info (dict): Its ``data_info`` of the image.

    Returns:
        tuple[np.ndarray | None, list[Problem]]: Pixels per label in training, shape (256,), int64,
        or None if the mask was not read; and what is wrong with the pair. Missing files of the
        file system are left to :func:`check_files`.
    """
    image_path, mask_path = info['img_path'], info.get('seg_map_path')
    image_size = None
    if any(isinstance(step, LoadImageFromFile) for step in dataset.pipeline.transforms):
        storage = _storage(dataset, LoadImageFromFile)
        try:
            image_size = _loaded_size(image_path, storage)
        except FileNotFoundError:
            if not is_local(image_path, storage):
                return None, [Problem(image_path, 'image is missing')]
        except (OSError, SyntaxError) as error:  # the latter is Pillow's, of a PNG with a hole
            return None, [Problem(image_path, f'image cannot be read: {error}')]
    if mask_path is None or not _masks_are_read(dataset):
        return None, []
    storage = _storage(dataset, LoadAnnotations)
    try:
        with Image.open(BytesIO(read(mask_path, storage))) as mask:
            if mask.mode not in INDEX_MODES:
                return None, [Problem(
                    mask_path, f"mask is of mode '{mask.mode}', not an 8-bit image of class indices"
                    ' with one channel')]
            if image_size is not None and mask.size != image_size:
                return None, [Problem(
                    mask_path, f'mask is {mask.size[0]}x{mask.size[1]}, but its image '
                    f'{image_size[0]}x{image_size[1]}')]
            in_file = np.bincount(np.asarray(mask, np.uint8).ravel(), minlength=256)
    except FileNotFoundError:
        if labels_are_given(dataset) and not is_local(mask_path, storage):
            return None, [Problem(mask_path, 'mask is missing')]
        return None, []
    except (OSError, SyntaxError) as error:
        return None, [Problem(mask_path, f'mask cannot be read: {error}')]

    labels = _training_labels(info)
    counts = np.zeros(256, np.int64)
    np.add.at(counts, labels, in_file)
    num_classes = len(dataset.metainfo.get('classes', ()))
    bad = np.flatnonzero((in_file > 0) & (labels >= num_classes) & (labels != dataset.ignore_index))
    if num_classes and len(bad):
        return counts, [Problem(
            mask_path, f'labels {", ".join(map(str, bad))} are neither one of the {num_classes} '
            'classes nor ignored')]
    return counts, []


def check_dataset(
    dataset: BaseDataset, name: str, workers: int = 1, progress: Callable[[], None] = lambda: None
) -> Report:
    """Read every mask and every image of a dataset without wrappers.

    Args:
        dataset (BaseDataset): The dataset.
        name (str): Its name in the report.
        workers (int): Number of threads.
        progress (Callable): Called once per image.

    Returns:
        Report: Statistics and bad files.
    """
    def check(index: int) -> tuple[np.ndarray | None, list[Problem]]:
        found = check_pair(dataset, dataset.get_data_info(index))
        progress()
        return found

    with ThreadPoolExecutor(workers) as pool:
        report = _report(dataset, name, pool.map(check, range(len(dataset))))
    report.problems = check_files(dataset, name) + report.problems
    return report


def _report(dataset: BaseDataset, name: str,
            pairs: Iterable[tuple[np.ndarray | None, list[Problem]]]) -> Report:
    """What :func:`check_pair` found, added up."""
    classes = tuple(dataset.metainfo.get('classes', ()))
    level = next((step.level for step in _steps(dataset) if isinstance(step, SparsifyLabels)), None)
    report = Report(name, classes, len(dataset), np.zeros(len(classes), np.int64), level=level)
    for counts, problems in pairs:
        if counts is not None:
            report.pixels += counts[:len(classes)]
            report.ignored += int(counts[getattr(dataset, 'ignore_index', 255)])
            report.masks += 1
        report.problems += problems
    if classes and labels_are_given(dataset) and report.ignored and not report.pixels.any():
        report.problems.append(Problem(
            name, f'no pixel of the {report.masks} masks that were read has a class: all are '
            'ignored (255)'))
    return report


def quick_check(
    train, val=None, model: dict | None = None
) -> tuple[list[Problem], list[str]]:
    """Everything that takes seconds: lists, missing files, overlaps, some pairs of each dataset.

    Args:
        train: Training dataset, with or without wrappers.
        val: Validation dataset, if any.
        model (dict, optional): Config of the model.

    Returns:
        tuple[list[Problem], list[str]]: What is wrong, and remarks.
    """
    train_parts = leaf_datasets(train, 'train')
    val_parts = {} if val is None else leaf_datasets(val, 'val')
    parts = {**train_parts, **val_parts}
    files = {name: listed_files(dataset) for name, dataset in parts.items()}
    problems, remarks = check_overlaps(train_parts, val_parts, files)
    problems += check_num_classes(parts, model) + check_branches(train_parts, model)
    problems += check_losses(model)
    for name, dataset in parts.items():
        problems += check_files(dataset, name, files.pop(name))
        spread = np.linspace(0, len(dataset) - 1, min(len(dataset), QUICK_PAIRS)).astype(int)
        report = _report(dataset, name, (
            check_pair(dataset, dataset.get_data_info(index)) for index in spread.tolist()))
        problems += report.problems
        # a rare class may be in the masks that were not read
        if labels_are_given(dataset) and (
                len(spread) == len(dataset) or not report.pixels[1:].any()):
            remarks += report.remarks
    return problems, remarks
