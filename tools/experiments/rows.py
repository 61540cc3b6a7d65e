# Licensed under the Apache License, Version 2.0.
"""The methods that are compared, and the ablation of ReCo: which config, and what changes."""

from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from protocol import Changes, Row, changed_hook, load_config

PARTIAL_LEVELS = ('p0', 'p1', 'p5', 'p25')


def method_rows(stem: str, labels: int, rc2l: str, partial: bool = True) -> dict[str, Row]:
    """The seven methods on one network and dataset.

    Args:
        stem: Of the configs in ``configs/reco``: ``deeplabv3plus_m-v2_camvid``.
        labels: The number in the names of the configs with few labelled images.
        rc2l: Stem of the configs in ``configs/rc2l`` that name RC²L's terms.
        partial: Whether there are configs with partial labels.
    """

    supervised, semi = (f'supervised-{labels}', 'supervised-partial'), (f'semi-{labels}', 'partial')

    def row(title: str, cases: tuple[str, str], ending: str = '', changes: Any = {}) -> Row:
        few, pixels = (f'configs/reco/{stem}_{case}{ending}.py' for case in cases)
        return Row(title, few, pixels if partial else None, changes)

    return {
        'supervised': row('Supervised', supervised),
        'supervised-reco': row('Supervised + ReCo', supervised, '_reco'),
        'cutmix': row('CutMix', semi, '_cutmix'),
        'classmix': row('ClassMix', semi, '_classmix'),
        'reco-classmix': row('ClassMix + ReCo', semi),
        'rc2l': row('RC²L terms (RMC, RFC, SMC; reconstructed)', semi, '_classmix',
                    rc2l_terms(f'configs/rc2l/{rc2l}_rc2l.py')),
        'reco-rfc-smc': row('ClassMix + ReCo + RFC + SMC (reconstructed)', semi, '',
                            more_losses(f'configs/rc2l/{rc2l}_reco-rfc-smc.py')),
    }


def rc2l_terms(path: str) -> Callable[[Config], Changes]:
    """The model and losses of a config of RC²L, without what only ReCo knows."""

    def changes(cfg: Config) -> Changes:
        rc2l = load_config(path).model
        model = {key: value for key, value in cfg.model.items() if key in rc2l}
        model.update(type=rc2l.type, losses=list(rc2l.losses))
        settings = model.get('semi_train_cfg', {})
        if 'self_label_threshold' in settings:
            model['semi_train_cfg'] = {
                key: settings[key] for key in settings if key != 'self_label_threshold'}
        return {'model': dict(model, _delete_=True)}

    return changes


def more_losses(path: str) -> Callable[[Config], Changes]:
    """The losses of a config that a given one lacks."""

    def changes(cfg: Config) -> Changes:
        own = [loss.type for loss in cfg.model.losses]
        added = [loss for loss in load_config(path).model.losses if loss.type not in own]
        return {'model.losses': [*cfg.model.losses, *added]}

    return changes


def ablation_rows(base: Row) -> dict[str, Row]:
    """One change of ReCo + ClassMix each; the first of ``model.losses`` is ReCo.

    Args:
        base: ReCo + ClassMix.
    """

    def row(title: str, changes) -> Row:
        return Row(title, base.semi, base.partial, changes)

    def reco(title: str, **arguments) -> Row:
        return row(title, {f'model.losses.0.{key}': value for key, value in arguments.items()})

    return {
        'random-queries': reco('Random queries', query_sampler=dict(type='RandomQuerySampler')),
        'random-keys': reco('Random keys', key_sampler=dict(type='RandomKeySampler')),
        'random-both': reco('Random queries, random keys',
                            query_sampler=dict(type='RandomQuerySampler'),
                            key_sampler=dict(type='RandomKeySampler')),
        'queries-32': reco('32 queries', num_queries=32),
        'queries-512': reco('512 queries', num_queries=512),
        'negatives-32': reco('32 negatives', num_negatives=32),
        'negatives-1024': reco('1,024 negatives', num_negatives=1024),
        'temperature-0.1': reco('Temperature 0.1', temperature=0.1),
        'temperature-1': reco('Temperature 1', temperature=1.0),
        'dims-32': row('Representation of 32', {'model.projector.embed_dims': 32}),
        'dims-512': row('Representation of 512', {'model.projector.embed_dims': 512}),
        'strong-0.8': reco('δ_s 0.8 (hard queries)', strong_threshold=0.8),
        'strong-1': reco('δ_s 1 (hard queries)', strong_threshold=1.0),
        'weak-0.5': row('δ_w 0.5', {'model.semi_train_cfg.weak_threshold': 0.5}),
        'weak-0.9': row('δ_w 0.9', {'model.semi_train_cfg.weak_threshold': 0.9}),
        'buffers-copy': row('BN statistics of the student', students_statistics('copy')),
        'buffers-average': row('BN statistics of the student, averaged',
                               students_statistics('average')),
    }


def students_statistics(buffers: str) -> Callable[[Config], Changes]:
    """The teacher labels in eval mode, without BN statistics of its own."""

    def changes(cfg: Config) -> Changes:
        return {**changed_hook('MeanTeacherHook', buffers=buffers)(cfg),
                'model.semi_train_cfg.teacher_batch_stats': False}

    return changes
