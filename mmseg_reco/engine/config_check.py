# Licensed under the Apache License, Version 2.0.
"""Misspelt settings, found before anything is built, each with the nearest right name."""

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmseg import registry

from mmseg_reco.utils import type_name

# What mmengine itself takes out of a config before it builds the object.
_RESERVED = {'type', 'priority', '_scope_', '_delete_'}
# Arguments of a stock model, which one of a student and a teacher has in its segmentor.
_PARTS = {'auxiliary_head', 'backbone', 'decode_head', 'neck', 'pretrained', 'test_cfg',
          'train_cfg'}
_ENDLESS = 'InfiniteSampler', 'MultiSourceSampler'
# What mmengine makes of train_cfg.by_epoch.
_LOOPS = {True: 'EpochBasedTrainLoop', False: 'IterBasedTrainLoop'}


def nearest(word: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """The known word that is spelt most alike; None if none is."""
    return next(iter(get_close_matches(word, list(known), 1, cutoff)), None)


def accepted_arguments(cls: type) -> set[str] | None:
    """Names of a class's arguments, those it hands on to its bases included; None for any."""
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            return names - {'self'}
        if base.__module__.startswith('mmdet.'):  # its heads swallow what they do not know
            return None
    return None if names else set()


def _registered() -> dict[str, type]:
    """Everything that mmseg and mmengine can build by name."""
    modules: dict[str, type] = {}
    for root in vars(registry).values():
        while isinstance(root, Registry):
            root.import_from_location()
            modules = {**root.module_dict, **modules}
            root = root.parent
    return modules


def _typed(node: Any, place: str = '') -> Iterator[tuple[str, Mapping]]:
    """All dicts with a ``type`` inside a config, with their places."""
    if isinstance(node, Mapping):
        if 'type' in node:
            yield place, node
        for key, value in node.items():
            yield from _typed(value, f'{place}.{key}' if place else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _typed(value, f'{place}[{index}]')


def _own(modules: Mapping[str, type]) -> dict[str, type]:
    return {name: cls for name, cls in modules.items() if cls.__module__.startswith('mmseg_reco.')}


def own_types(config: Mapping) -> list[str]:
    """Names of this package's classes that a config builds, sorted."""
    ours = _own(_registered())
    kinds = [node['type'] for _, node in _typed(config)]
    return sorted(name for name, cls in ours.items() if name in kinds or cls in kinds)


def check_config(cfg: Config) -> None:
    """Refuse misspelt settings of the runner, and types and arguments of this package's modules.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: The message names the key, what it belongs to, and the nearest right name.
    """
    settings = _runner_settings()
    for key in set(cfg) - settings:
        meant = nearest(key, settings - set(cfg), 0.88)
        if meant:
            raise ValueError(f"The config sets '{key}', which nothing reads. Did you mean '{meant}'"
                             '? (If it is a variable of your own, give it another name.)')

    modules = _registered()
    ours = _own(modules)
    for place, node in _typed(dict(cfg.items())):
        kind = node['type']
        name = kind.removeprefix('mmseg.') if isinstance(kind, str) else None
        if name is not None and '.' not in name and name not in modules:
            meant = nearest(name, ours)
            if meant:
                raise ValueError(f"{place}.type is '{kind}', which is not registered. Did you mean "
                                 f"'{meant}'?")
        # a package whose modules nothing imported: they are not in mmseg's registries
        if str(name).startswith('mmpretrain.') and 'mmpretrain.models' not in sys.modules:
            raise ValueError(
                f"{place}.type is '{kind}', but nothing imports mmpretrain: write custom_imports = "
                "dict(imports=['mmpretrain.models', 'mmseg_reco']), where a base's list would be "
                'replaced, and pip install mmpretrain.')
        cls = kind if kind in ours.values() else ours.get(name)
        known = None if cls is None else accepted_arguments(cls)
        for key in () if known is None else sorted(set(node) - known - _RESERVED):
            meant = nearest(key, known, 0.6)
            names = ', '.join(sorted(known - {'args', 'kwargs'}))
            hint = f"Did you mean '{meant}'?" if meant else f'It has: {names}.'
            if 'segmentor' in known and key in _PARTS:
                hint = ('The model of the base is still in it: write '
                        f"{place} = dict(_delete_=True, type='{cls.__name__}', "
                        f'segmentor=_base_.{place}).')
            raise ValueError(f'{place}.{key}: {cls.__name__} has no such argument. {hint}')
    check_constructor(cfg)


def check_constructor(cfg: Config) -> None:
    """Refuse constructors that tell the depth of a layer from its name, around a student.

    Raises:
        ValueError: With the setting that lets them see the student alone.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    kind = wrapper.get('constructor')
    if 'segmentor' in (cfg.get('model') or {}) and kind in (
            'LayerDecayOptimizerConstructor', 'LearningRateDecayOptimizerConstructor'):
        raise ValueError(
            f'optim_wrapper.constructor: {kind} looks for model.backbone, and this model is of a '
            "student and a teacher. Set optim_wrapper = dict(constructor='Student"
            f"OptimWrapperConstructor', paramwise_cfg=dict(constructor='{kind}')); all else stays.")


def check_training(runner: Runner) -> None:
    """Refuse a training that would run in vain: its teacher never moves, or its epochs never end.

    Also one by iterations whose learning rate or checkpoints wait for the end of an epoch.

    Args:
        runner (Runner): The runner, before it trains.

    Raises:
        ValueError: The message names the setting and the remedy.
    """
    cfg = runner.cfg
    hook = registry.HOOKS.get('MeanTeacherHook')
    if 'segmentor' in (cfg.get('model') or {}) and not any(
            isinstance(other, hook) for other in runner.hooks):
        if any(type(other).__name__ == hook.__name__ for other in runner.hooks):
            raise ValueError("custom_hooks has mmdet's MeanTeacherHook, which leaves the teacher's "
                             "BN statistics at their first values: take dict(type="
                             "'mmseg.MeanTeacherHook')")
        raise ValueError("custom_hooks lacks dict(type='MeanTeacherHook'): the teacher would keep "
                         'its first weights')
    loop = cfg.get('train_cfg') or {}
    kind = type_name(loop) if 'type' in loop else _LOOPS.get(loop.get('by_epoch'))
    sampler = (cfg.get('train_dataloader') or {}).get('sampler')
    if kind == 'EpochBasedTrainLoop' and sampler and type_name(sampler) in _ENDLESS:
        raise ValueError(
            f'train_cfg counts epochs, but those of {type_name(sampler)} never end: take '
            "train_cfg = dict(type='IterBasedTrainLoop', max_iters=..., val_interval=...), with "
            '_delete_=True where a base has another')
    if kind in ('IterBasedTrainLoop', 'ResumableTrainLoop'):
        _check_iterations(cfg, runner.hooks)


def _check_iterations(cfg: Config, hooks: Iterable[Hook]) -> None:
    """Refuse what counts epochs, as mmengine does by default, where there is a single endless one.

    Raises:
        ValueError: The message names the setting and the remedy.
    """
    for place, schedule in _typed(cfg.get('param_scheduler'), 'param_scheduler'):
        by_epoch = schedule.get('by_epoch', True) and not schedule.get('convert_to_iter_based')
        # that one goes by the validations
        if by_epoch and not type_name(schedule).startswith('ReduceOnPlateau'):
            raise ValueError(
                f'{place} ({type_name(schedule)}) counts epochs, but train_cfg iterations, so that '
                'it would never take a step: give it by_epoch=False, and its begin and end in '
                'iterations')
    if any(isinstance(hook, CheckpointHook) and hook.by_epoch and hook.interval > 0
           for hook in hooks):
        raise ValueError(
            'default_hooks.checkpoint counts epochs, but train_cfg iterations, so that nothing '
            "would be saved before the end: set default_hooks = dict(checkpoint=dict(type='Safe"
            "CheckpointHook', by_epoch=False, interval=...)), in iterations")


def check_options(options: Iterable[str], cfg: Config) -> None:
    """Refuse options of the command line that would add a misspelt setting to the config.

    Args:
        options (Iterable[str]): Keys of ``--cfg-options``, such as 'optim_wrapper.optimizer.lr'.
        cfg (Config): The config before the options.

    Raises:
        ValueError: The message names the option and the nearest right name.
    """
    known = _runner_settings() | set(cfg)
    for option in options:
        head, *rest = option.split('.')
        if head == 'model' and 'segmentor' in (cfg.get('model') or {}) and _PARTS & {*rest[:1]}:
            raise ValueError(f'--cfg-options {option}: student and teacher are built from '
                             f"model.segmentor. Did you mean 'model.segmentor.{'.'.join(rest)}'?")
        meant = None if head in known else nearest(head, known)
        if meant:
            raise ValueError(f"--cfg-options {option}: the config has no '{head}'. Did you mean "
                             f"'{'.'.join([meant, *rest])}'?")


def _runner_settings() -> set[str]:
    return set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | {
        'runner_type', 'model_wrapper_cfg', 'find_unused_parameters', 'sync_bn'}
