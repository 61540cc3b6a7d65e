# Licensed under the Apache License, Version 2.0.
"""What a protocol is, and how it becomes the config of each of its runs."""

import copy
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_reco.engine.config_check import check_config, check_options

ROOT = Path(__file__).resolve().parents[2]
#: Changes of a config, as ``--cfg-options`` writes them: ``{'optim_wrapper.optimizer.lr': 0.01}``.
Changes = Mapping[str, Any]

# The parts of a config that a result depends on; logs and checkpoints are not among them.
_COUNTS = {'model', 'train_dataloader', 'val_dataloader', 'train_cfg', 'val_cfg', 'val_evaluator',
           'optim_wrapper', 'param_scheduler', 'custom_hooks', 'randomness', 'load_from'}
# Hooks that change a result by rounding at most, but for the schedules of SamplingHook.
_NEUTRAL = {'ChannelsLastHook', 'CheckDataHook', 'NumericalWatchHook', 'PreemptionHook',
            'SamplingHook', 'ClassRelationHook', 'PseudoLabelQualityHook', 'PredictionPanelHook'}


@dataclass(frozen=True)
class Setting:
    """What is labelled: ``labels`` whole images (Case I), or pixels of a ``level`` (Case II).

    ``network`` holds changes of the stock segmentor in this setting, beside the protocol's, and
    ``semi`` those of a config with a teacher.
    """

    title: str
    labels: int | None = None
    level: str | None = None
    network: Changes = field(default_factory=dict)
    semi: Changes = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A method: a config for each case, paths from the repository's root, and changes of it.

    ``changes`` may be a function of the config, where they depend on it.
    """

    title: str
    semi: str
    partial: str | None = None
    changes: Changes | Callable[[Config], Changes] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablation:
    """Variants, beside the row ``base`` of ``setting``."""

    setting: str
    base: str
    rows: Mapping[str, Row]


@dataclass(frozen=True)
class Protocol:
    """A table of results: every setting with every row and several seeds.

    Args:
        name: As the command line names it.
        title: For the reader of the tables.
        settings, rows: Columns and rows of the table, by short names.
        iterations, val_interval: The same for all runs.
        mask_dir, train_list: Where the labelled images are chosen from, inside the data's folder.
        split_rule: How they are chosen: options of ``make_splits.py``.
        network: Changes of the stock segmentor, which lies at ``model`` or ``model.segmentor``.
        batch_size: Images of a step, of both halves together; None leaves what the configs say.
        ablation: A second table.
        baselines: Rows that the others are compared with, seed by seed.
    """

    name: str
    title: str
    settings: Mapping[str, Setting]
    rows: Mapping[str, Row]
    iterations: int
    val_interval: int
    mask_dir: str
    train_list: str
    split_rule: tuple[str, ...] = ()
    network: Changes = field(default_factory=dict)
    batch_size: int | None = None
    ablation: Ablation | None = None
    baselines: tuple[str, ...] = ('supervised', 'classmix')


@dataclass(frozen=True)
class Run:
    """One training."""

    setting: str
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f'{self.setting}/{self.row}/{self.seed}'


@dataclass(frozen=True)
class Places:
    """Where things lie on this machine; ``None`` leaves what the config says."""

    splits: str
    data_root: str | None = None
    weights: str | None = None


def protocol_names() -> list[str]:
    """Names of the protocols in this folder."""
    return sorted(file.stem.replace('_', '-') for file in Path(__file__).parent.glob('*.py')
                  if re.search(r'^PROTOCOL\b', file.read_text(), re.M))


def load_protocol(name: str) -> Protocol:
    """A protocol by its name, or by its file.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    path = Path(name)
    if path.suffix != '.py':
        path = Path(__file__).parent / f'{name.replace("-", "_")}.py'
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no protocol '{name}'. There are: {', '.join(protocol_names())}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PROTOCOL


def runs_of(protocol: Protocol, seeds: list[int]) -> Iterator[Run]:
    """All runs: setting by setting, and in each seed by seed, so that comparisons come early."""
    for setting in protocol.settings:
        for seed in seeds:
            for name, row in protocol.rows.items():
                if protocol.settings[setting].level is None or row.partial is not None:
                    yield Run(setting, name, seed)
    if protocol.ablation is not None:
        for seed in seeds:
            for name in protocol.ablation.rows:
                yield Run(protocol.ablation.setting, name, seed)


def row_of(protocol: Protocol, name: str) -> Row:
    """A row of the main table or of the ablation."""
    rows = dict(protocol.rows, **(protocol.ablation.rows if protocol.ablation else {}))
    return rows[name]


@cache
def load_config(path: str) -> Config:
    """A config by its path from the repository's root; not to be changed."""
    return Config.fromfile(ROOT / path)


def config_path(protocol: Protocol, run: Run) -> str:
    """The config that a run starts from."""
    row = row_of(protocol, run.row)
    return row.partial if protocol.settings[run.setting].level is not None else row.semi


def resolve(protocol: Protocol, run: Run, places: Places) -> tuple[Config, dict[str, Any]]:
    """The config of a run, and the changes that make it out of the one it starts from.

    Raises:
        ValueError: A change is misspelt.
    """
    setting, row = protocol.settings[run.setting], row_of(protocol, run.row)
    cfg = copy.deepcopy(load_config(config_path(protocol, run)))
    changes: dict[str, Any] = {}

    def change(options: Changes) -> None:
        check_options(options, cfg)
        cfg.merge_from_dict(copy.deepcopy(dict(options)))
        changes.update(options)

    change({
        'train_cfg.max_iters': protocol.iterations,
        'train_cfg.val_interval': protocol.val_interval,
        f'param_scheduler.{len(cfg.param_scheduler) - 1}.end': protocol.iterations,
    })
    stock = 'model.segmentor' if 'segmentor' in cfg.model else 'model'
    network = {**protocol.network, **setting.network}
    change({f'{stock}.{key}': value for key, value in network.items()})
    if stock == 'model.segmentor':
        change(setting.semi)
    if places.weights is not None:
        change({f'{stock}.backbone.init_cfg': dict(type='Pretrained', checkpoint=places.weights)})
    change(row.changes(cfg) if callable(row.changes) else row.changes)
    change(_data_changes(cfg, setting, run.seed, places))
    if protocol.batch_size is not None:
        loader = cfg.train_dataloader
        change({f'{key}.batch_size': protocol.batch_size
                for key, node in (('train_dataloader', loader),
                                  ('train_dataloader.sampler', loader.sampler))
                if 'batch_size' in node})
    change({'randomness.seed': run.seed})
    check_config(cfg)
    return cfg, changes


def _data_changes(cfg: Config, setting: Setting, seed: int, places: Places) -> dict[str, Any]:
    """Which images or pixels are labelled, and where the data lie."""
    train = list(_datasets(cfg, 'train_dataloader'))
    if setting.level is not None:
        where = next(key for key, node in train if 'level' in node)
        changes = {f'{where}.level': setting.level, f'{where}.seed': seed}
    else:
        lists = f'{places.splits}/{setting.labels}/{seed}'
        where, outer = train[0]
        if 'labeled' in outer:
            changes = {f'{where}.labeled': f'{lists}/labeled.txt',
                       f'{where}.unlabeled': f'{lists}/unlabeled.txt'}
        else:
            changes = {f'{train[-1][0]}.ann_file': f'{lists}/labeled.txt'}
    if places.data_root is not None:
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            changes[f'{list(_datasets(cfg, loader))[-1][0]}.data_root'] = places.data_root
    return changes


def _datasets(cfg: Config, loader: str) -> Iterator[tuple[str, dict]]:
    """Wrappers and then the dataset of a dataloader, each with its key."""
    key, node = loader, cfg[loader]
    while 'dataset' in node:
        key, node = f'{key}.dataset', node['dataset']
        yield key, node


def data_root_of(protocol: Protocol) -> str:
    """Where the configs of a protocol look for the data."""
    cfg = load_config(next(iter(protocol.rows.values())).semi)
    return list(_datasets(cfg, 'train_dataloader'))[-1][1]['data_root']


def digest(cfg: Config, *more: Any) -> str:
    """A fingerprint of all that a result depends on: not of places, logs and processes.

    Args:
        cfg: The config of a run, with the same :class:`Places` on every machine.
        more: What else counts.
    """
    content = {key: value for key, value in cfg.to_dict().items() if key in _COUNTS}
    model = content['model']
    if 'segmentor' in model:  # written or by default, and off or not known yet, is all the same
        defaults = MODELS.get(model['type']).train_defaults
        settings = {**defaults, **(model.get('semi_train_cfg') or {})}
        content['model'] = dict(model, semi_train_cfg={
            key: value for key, value in settings.items()
            if value is not None and value is not False})
    content['custom_hooks'] = [hook for hook in content.get('custom_hooks', [])
                               if hook['type'] not in _NEUTRAL or hook.get('schedules')]
    for loader in ('train_dataloader', 'val_dataloader'):
        for key in ('num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory'):
            content[loader].pop(key, None)
    text = json.dumps([content, *more], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_hook(kind: str, **arguments: Any) -> Callable[[Config], Changes]:
    """Changes of one of ``custom_hooks``, wherever in the list it stands."""

    def changes(cfg: Config) -> Changes:
        index = [hook['type'] for hook in cfg.custom_hooks].index(kind)
        return {f'custom_hooks.{index}.{key}': value for key, value in arguments.items()}

    return changes
