# Licensed under the Apache License, Version 2.0.
"""The way back to stock mmseg: one network of a checkpoint, and the config that goes with it."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmseg_reco.engine.checkpoint import to_plain
from mmseg_reco.engine.config_check import own_types
from mmseg_reco.models.segmentors.query_encoder_decoder import QUERY_HEADS

# What this package puts in the place of stock classes, and adds to them: arguments and weights.
_STOCK_TYPES = dict(
    EmbeddingEncoderDecoder='EncoderDecoder',
    EmbeddingCascadeEncoderDecoder='CascadeEncoderDecoder',
    QueryEncoderDecoder='EncoderDecoder',
    **{own: stock for stock, own in QUERY_HEADS.items()})
_OWN_ARGUMENTS = ('projector', 'tap', 'losses', 'avg_non_ignore')
_OWN_WEIGHTS = ('projector.', 'losses.')
# What inference and testing read; how the run was trained stays behind.
_KEPT = ('default_scope', 'custom_imports', 'env_cfg', 'log_level', 'visualizer', 'test_dataloader',
         'test_evaluator', 'test_cfg', 'test_pipeline', 'tta_model', 'tta_pipeline')


def plain_checkpoint(checkpoint: Any, network: str | None = None) -> tuple[dict, str | None]:
    """One network of a checkpoint, as stock mmseg would have saved it, without its training.

    Args:
        checkpoint: A checkpoint of mmengine, of a student and a teacher or of one segmentor.
        network: 'teacher' or 'student'; None takes the teacher, or the only network there is.

    Returns:
        The checkpoint: ``state_dict`` and, in ``meta``, ``iter`` and ``dataset_meta`` (classes and
        palette), as far as they are known. And which network it is; None for the only one.

    Raises:
        ValueError: It is no checkpoint of a segmentor, or does not hold that network.
    """
    state = checkpoint.get('state_dict') if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError('it holds no state_dict, so it is no checkpoint of mmengine')
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    is_pair = any(name.startswith(('teacher.', 'student.')) for name in state)
    if network and not is_pair:
        raise ValueError(f'it holds one network, not a student and a teacher: it has no {network}')
    network = network or ('teacher' if is_pair else None)
    prefix = f'{network}.' if is_pair else ''
    weights = {
        name.removeprefix(prefix): value for name, value in state.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_OWN_WEIGHTS)
    }
    if not any(name.startswith('decode_head.') for name in weights):
        begin = ', '.join(sorted({name.split('.')[0] for name in weights or state})[:6])
        raise ValueError('it holds no decode_head, so it is no checkpoint of a segmentor: names '
                         f'{f"of its {network} " if weights and network else ""}begin with '
                         f'{begin or "nothing"}')
    meta = checkpoint.get('meta') or {}
    meta = {key: to_plain(meta[key], key) for key in ('dataset_meta', 'iter') if key in meta}
    return dict(meta=meta, state_dict=weights), network


def plain_model(model: Mapping, data_preprocessor: Mapping | None = None) -> dict:
    """Config of the stock segmentor inside a model of this package.

    Args:
        model: ``model`` of a config: a student and a teacher, one segmentor, or a stock one.
        data_preprocessor: The config's own, which mmengine hands to a model that has none.

    Raises:
        ValueError: It is no model of segmentation.
    """
    outer = model.get('data_preprocessor') or data_preprocessor
    network = dict(model.get('segmentor', model))
    head = network.get('decode_head')
    if head is None:
        raise ValueError('the config has neither model.segmentor nor model.decode_head')
    if (outer or {}).get('type') == 'MultiBranchDataPreprocessor':
        network['data_preprocessor'] = outer['data_preprocessor']
    elif not network.get('data_preprocessor'):
        network['data_preprocessor'] = outer
    network['type'] = _STOCK_TYPES.get(network['type'], network['type'])
    if isinstance(head, Mapping):
        network['decode_head'] = dict(head, type=_STOCK_TYPES.get(head['type'], head['type']))
    return {key: value for key, value in network.items() if key not in _OWN_ARGUMENTS}


def plain_config(cfg: Config) -> Config:
    """The config with which stock mmseg tests, or infers with, a :func:`plain_checkpoint`.

    ``custom_imports`` names this package only where something of it is left, such as a dataset:
    see :func:`~mmseg_reco.engine.config_check.own_types`.

    Args:
        cfg: Config of the run.

    Raises:
        ValueError: It has no model of segmentation.
    """
    settings = cfg.to_dict()
    plain = {key: settings[key] for key in _KEPT if settings.get(key) is not None}
    plain['model'] = plain_model(settings.get('model') or {}, settings.get('data_preprocessor'))
    plain.setdefault('default_scope', 'mmseg')
    # mmseg's inference_model reads the one, its inferencer insists on the other
    pipeline = (settings.get('test_dataloader') or {}).get('dataset', {}).get('pipeline')
    if pipeline:
        plain.setdefault('test_pipeline', pipeline)
    plain.setdefault('visualizer', dict(type='SegLocalVisualizer', name='visualizer'))
    drawing = (settings.get('default_hooks') or {}).get('visualization')
    if drawing:  # stock test.py --show-dir needs it
        plain['default_hooks'] = dict(visualization=drawing)

    custom = plain.pop('custom_imports', {})
    imports = custom.get('imports') or []
    imports = [name for name in ([imports] if isinstance(imports, str) else imports)
               if name.split('.')[0] != 'mmseg_reco']
    if own_types(plain):
        imports.append('mmseg_reco')
    if imports:
        plain['custom_imports'] = dict(custom, imports=imports)
    return Config(plain)
