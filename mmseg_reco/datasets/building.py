# Licensed under the Apache License, Version 2.0.
"""Building of stock datasets, wherever their files lie, with words for what stops it."""

import os.path as osp
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.fileio import list_from_file
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_reco.utils import type_name

from .camvid import CamVidDataset
from .files import can_list, cannot_list, file_exists, is_local, join
from .pipelines import map_leaf_configs
from .splits import read_names

# How a dataset's files hold its labels; datasets of the same classes may differ in it.
LABEL_KEYS = ['label_map', 'palette', 'reduce_zero_label']
_STOCK_WRAPPERS = 'ConcatDataset', 'RepeatDataset', 'ClassBalancedDataset'


def build_datasets(config: dict, edit: Callable[[dict], dict]) -> Any:
    """Edit every dataset inside wrappers, and build it if the wrappers are mmengine's.

    Concatenated datasets may then differ in how their files hold the labels.

    Args:
        config (dict): Config of a dataset or of wrappers around datasets.
        edit (Callable): Gets a copy of each inner config and returns its replacement.

    Returns:
        BaseDataset | dict: The dataset, or the config of the wrappers around it.
    """
    return _build_inside(map_leaf_configs(config, edit))


def _build_inside(config: dict) -> Any:
    if 'dataset' not in config and 'datasets' not in config:
        return build_dataset(config)
    kind = type_name(config)
    if kind not in _STOCK_WRAPPERS:  # one that builds what it wraps itself
        return config
    if kind != 'ConcatDataset':
        return {**config, 'dataset': _build_inside(config['dataset'])}
    return {'ignore_keys': LABEL_KEYS, **config,
            'datasets': [_build_inside(inner) for inner in config['datasets']]}


def build_dataset(config: dict) -> BaseDataset:
    """Build one dataset whose folders, list of images, or both may lie outside the file system.

    mmseg's own classes want the list as a local file of bare names, and mmengine joins addresses
    for some backends only.

    Args:
        config (dict): Config of a dataset without wrappers.

    Raises:
        ValueError: If a folder must be listed, but its backend cannot do that, or if the class
            itself knows local files only, or if the list is a folder, is empty or holds a name
            twice.
        FileNotFoundError: If there is no such list.
    """
    config = with_full_addresses(config)
    path, storage = list_path(config), config.get('backend_args')
    folder = join(config.get('data_root'), (config.get('data_prefix') or {}).get('img_path') or '')
    if not reads_stock_lists(config):
        return DATASETS.build(config)
    if not path and folder and not can_list(folder, storage):
        raise ValueError(cannot_list(folder, storage))
    local = is_local(path, storage)
    if not path or local and _reads_alike(path):
        return DATASETS.build(config)
    try:
        dataset = DATASETS.build({**config, 'lazy_init': True})
    except (AssertionError, AttributeError) as error:
        if local:
            raise
        raise ValueError(f"{type_name(config)} itself reads lists of local files only, not "
                         f"'{path}': take BaseSegDataset with the same metainfo.") from error
    with tempfile.NamedTemporaryFile('w', suffix='.txt', encoding='utf-8') as copy:
        copy.write('\n'.join(read_names(path, storage)))
        copy.flush()
        dataset.ann_file, dataset.backend_args = copy.name, None
        dataset.full_init()
    dataset.ann_file, dataset.backend_args = path, storage
    return dataset


def _reads_alike(path: str) -> bool:
    """Whether mmseg takes the same names from a local list as this package."""
    return read_names(path) == [line.strip() for line in list_from_file(path)]


def with_full_addresses(config: dict) -> dict:
    """Join ``data_root`` into all paths if one is an address; not all backends of mmengine do."""
    prefix = dict(config.get('data_prefix') or {})
    root, names = config.get('data_root'), [config.get('ann_file'), *prefix.values()]
    if not any('://' in str(name) for name in (root, *names)):
        return config
    config = dict(config, data_root=None)
    config['data_prefix'] = {key: join(root, name) for key, name in prefix.items()}
    if config.get('ann_file'):
        config['ann_file'] = join(root, config['ann_file'])
    return config


def list_path(config: dict) -> str:
    """Where the list of a dataset config lies; '' if it has none.

    Raises:
        ValueError: If it is a folder, for which mmseg would take all images.
    """
    name = config.get('ann_file')
    path = join(config.get('data_root'), name) if name else ''
    if osp.isdir(path):
        raise ValueError(f"The list of images '{path}' is a folder: name the list in it, such as "
                         f'{join(name, "labeled.txt")}.')
    return path


def reads_stock_lists(config: dict) -> bool:
    """Whether a dataset's list holds one name per line, which its class might read otherwise."""
    kind = config['type']
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return getattr(kind, 'load_data_list', None) in (
        BaseSegDataset.load_data_list, CamVidDataset.load_data_list)


def check_list_file(config: dict) -> None:
    """Refuse a dataset config whose list of images (``ann_file``) is of no use.

    Args:
        config (dict): Config of one dataset, without wrappers.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is a folder, is empty or holds a name twice.
    """
    path, storage = list_path(config), config.get('backend_args')
    if not path:
        return
    if not osp.isfile(path) and not file_exists(path, storage):
        raise FileNotFoundError(f"The list of images '{path}' does not exist; lists are looked up "
                                'in data_root, unless their path is absolute.')
    if reads_stock_lists(config):
        read_names(path, backend_args=storage)


@contextmanager
def explain_dataset_errors() -> Iterator[None]:
    """Say what a dataset without folder or images means, on which mmengine fails elsewhere.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: In the place of NumPy's, as an empty list cannot be serialised; and of
            mmengine's, as concatenated datasets have other classes.
    """
    try:
        yield
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(
            f"'{error.filename}' does not exist: check data_root and data_prefix.") from error
    except ValueError as error:
        if 'the meta information of' in str(error) or 'The meta information of' in str(error):
            raise ValueError(
                'The concatenated datasets have other classes: give each of them the same '
                'metainfo=dict(classes=...), in the same order. A class of yours that has METAINFO '
                'then maps the labels of its masks to them.') from error
        if 'at least one array' not in str(error):
            raise
        raise ValueError(
            'The training data, or a part of them, hold no image: check data_root and '
            'data_prefix, and img_suffix, which must be that of the files (by default .jpg).'
        ) from error
