# Licensed under the Apache License, Version 2.0.
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmseg.datasets import BaseSegDataset

from mmseg_reco.datasets import MultiBranch, PartialVOCDataset
from mmseg_reco.engine import launch
from mmseg_reco.engine.config_check import (
    accepted_arguments,
    check_config,
    check_options,
    check_training,
    nearest,
)
from mmseg_reco.engine.hooks import CheckDataHook, MeanTeacherHook
from mmseg_reco.models import EmbeddingEncoderDecoder, MeanTeacherReCo, ReCoLoss


def test_nearest():
    known = ['num_queries', 'num_negatives', 'temperature']
    assert nearest('num_querys', known) == 'num_queries'
    assert nearest('tau', known) is None


def test_arguments_follow_the_bases():
    assert accepted_arguments(ReCoLoss) >= {'num_queries', 'loss_name'}
    assert accepted_arguments(MeanTeacherReCo) >= {'mix', 'segmentor', 'semi_train_cfg'}
    assert accepted_arguments(EmbeddingEncoderDecoder) >= {'tap', 'backbone', 'neck'}
    voc = accepted_arguments(PartialVOCDataset)
    assert voc >= {'level', 'seed', 'ann_file', 'max_refetch'} and 'levels' not in voc
    assert accepted_arguments(MultiBranch) is None  # pipelines under names of the user's
    assert accepted_arguments(BaseSegDataset) >= {'data_root'}

    class Bare:
        pass

    assert accepted_arguments(Bare) == set()


@pytest.mark.parametrize(('cfg', 'message'), [
    (dict(model=dict(losses=[dict(type='ReCoLoss', num_querys=3)])),
     r"model\.losses\[0\]\.num_querys: ReCoLoss has .*mean 'num_queries'\?"),
    (dict(model=dict(type=MeanTeacherReCo, mixx=None)), r"model\.mixx: MeanTeacherReCo .*'mix'\?"),
    (dict(custom_hooks=[dict(type='mmseg.MeanTeacherHook', zzz=1)]),
     r'custom_hooks\[0\]\.zzz: MeanTeacherHook .*It has: buffers, interval, momentum, warmup\.'),
    (dict(model=dict(type='MeanTeacherReco')), "type is 'MeanTeacherReco'.*'MeanTeacherReCo'"),
    (dict(custom_hook=[]), "sets 'custom_hook'.*'custom_hooks'"),
    (dict(train_dataloder=dict()), "'train_dataloder'.*'train_dataloader'"),
])
def test_misspelt_settings_are_refused_with_the_nearest(cfg, message):
    with pytest.raises(ValueError, match=message):
        check_config(Config(cfg))


def test_what_is_not_ours_is_left_alone():
    check_config(Config(dict(
        crop_size=(3, 3), val_dataloader=dict(), val_dataloader2=dict(), norm_cfg=dict(type='BN'),
        model=dict(type='SomeoneElses', backbone=dict(type='mmrazor.ReCoLos', depht=3)),
        optim_wrapper=dict(type='OptimWrapper', constructor='X', optimizer=dict(type='SGD')),
        custom_hooks=[dict(type='MeanTeacherHook', priority='LOW')])))


@pytest.mark.parametrize('kind', [
    'LayerDecayOptimizerConstructor', 'LearningRateDecayOptimizerConstructor'])
def test_decay_by_layers_needs_the_student_alone(kind):
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', constructor=kind,
                                         paramwise_cfg=dict(num_layers=12))))
    check_config(cfg)  # of a plain segmentor
    cfg.model = dict(type='MeanTeacherReCo', segmentor=dict(type='EncoderDecoder'))
    with pytest.raises(ValueError) as caught:
        check_config(cfg)
    said = str(caught.value)
    remedy = said[said.index('dict('):said.index('; all else')]
    cfg.merge_from_dict(dict(optim_wrapper=eval(remedy)))
    check_config(cfg)
    assert cfg.optim_wrapper.paramwise_cfg == dict(num_layers=12, constructor=kind)


def test_options():
    cfg = Config(dict(my_setting=1, optim_wrapper=dict()))
    check_options(['optim_wrapper.optimizer.lr', 'my_setting', 'randomness.seed', 'zzz'], cfg)
    with pytest.raises(ValueError, match="no 'optim_wraper'.*'optim_wrapper.optimizer.lr'"):
        check_options(['optim_wraper.optimizer.lr'], cfg)


@pytest.mark.parametrize('loop', [dict(type='EpochBasedTrainLoop'), dict(by_epoch=True)])
def test_what_cannot_be_trained(loop):
    def check(hooks, **cfg):
        check_training(SimpleNamespace(hooks=hooks, cfg=Config(cfg)))

    endless = dict(train_dataloader=dict(sampler=dict(type='InfiniteSampler')), train_cfg=loop)
    with pytest.raises(ValueError, match='InfiniteSampler never end.*IterBasedTrainLoop'):
        check([], **endless)
    check([], train_dataloader=dict(sampler=dict(type='DefaultSampler')), train_cfg=loop)
    check([], **{**endless, 'train_cfg': dict(by_epoch=False, max_iters=3)})

    semi = dict(type='MeanTeacherReCo', segmentor=dict())
    with pytest.raises(ValueError, match='lacks .*MeanTeacherHook'):
        check([CheckDataHook()], model=semi)
    check([type('Mine', (MeanTeacherHook, ), {})()], model=semi)
    check([], model=dict(type='EmbeddingEncoderDecoder'))


@pytest.mark.parametrize('loop', [dict(type='IterBasedTrainLoop', max_iters=9),
                                  dict(type='ResumableTrainLoop', max_iters=9),
                                  dict(by_epoch=False, max_iters=9)])
def test_what_waits_for_the_end_of_an_epoch(loop):
    def check(schedules, *hooks, loop=loop):
        check_training(SimpleNamespace(
            hooks=hooks, cfg=Config(dict(train_cfg=loop, param_scheduler=schedules))))

    by_iteration = dict(type='LinearLR', by_epoch=False, end=3)
    for schedules, place in (([by_iteration, dict(type='PolyLR')], r'param_scheduler\[1\]'),
                             (dict(type='PolyLR', by_epoch=True), 'param_scheduler'),
                             (dict(generator=[dict(type='PolyLR')]), 'param_scheduler.generator')):
        with pytest.raises(ValueError, match=rf'^{place}.* \(PolyLR\) counts epochs'):
            check(schedules)
        check(schedules, loop=dict(by_epoch=True, max_epochs=2))
    check(None)
    check([by_iteration, dict(type='PolyLR', convert_to_iter_based=True),
           dict(type='ReduceOnPlateauLR', monitor='mIoU')])

    with pytest.raises(ValueError, match='nothing would be saved before the end.*by_epoch=False'):
        check(None, CheckpointHook(interval=1))
    check(None, CheckpointHook(interval=1), loop=dict(by_epoch=True, max_epochs=2))
    check(None, CheckpointHook(interval=1, by_epoch=False))
    check(None, CheckpointHook())  # of the last one alone, as somebody may want


def test_tools_check_the_config(tiny_config):
    launch.load_config(str(tiny_config))
    with pytest.raises(ValueError, match='optim_wrapper'):
        launch.load_config(str(tiny_config), {'optim_wraper.optimizer.lr': 0.1})
    tiny_config.write_text(tiny_config.read_text() + "custom_hook = [dict(type='X')]\n")
    with pytest.raises(ValueError, match='custom_hooks'):
        launch.load_config(str(tiny_config))


def test_every_config_of_this_package_passes():
    """A part of them, for time's sake: they share their modules."""
    paths = sorted(Path('configs').glob('reco/*m-v2*.py')) + sorted(Path('configs').glob('demo/*'))
    assert len(paths) > 10
    for path in paths:
        check_config(Config.fromfile(path))
