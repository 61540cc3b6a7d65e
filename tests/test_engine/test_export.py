# Licensed under the Apache License, Version 2.0.
import pytest
import torch
from mmengine.config import Config

from mmseg_reco.engine.config_check import own_types
from mmseg_reco.engine.export import plain_checkpoint, plain_config, plain_model


def weights(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((2, ), float(i)) for i, name in enumerate(names)}


PAIR = weights('student.backbone.w', 'student.decode_head.w', 'student.projector.w',
               'teacher.backbone.w', 'teacher.decode_head.w', 'teacher.projector.w', 'losses.0.w')


@pytest.mark.parametrize('network, name, first', [
    (None, 'teacher', 3), ('teacher', 'teacher', 3), ('student', 'student', 0)])
def test_one_network_of_two_is_left(network, name, first):
    meta = dict(dataset_meta=dict(classes=('a', 'b')), iter=7, cfg='import os', time='now')
    checkpoint = dict(state_dict=PAIR, meta=meta, optimizer={}, message_hub={})
    plain, exported = plain_checkpoint(checkpoint, network)
    assert exported == name
    assert plain.pop('state_dict') == {
        'backbone.w': PAIR[f'{name}.backbone.w'], 'decode_head.w': PAIR[f'{name}.decode_head.w']}
    assert plain == dict(meta=dict(dataset_meta=dict(classes=('a', 'b')), iter=7))


def test_a_supervised_network_loses_what_this_package_added():
    state = weights('module.backbone.w', 'module.decode_head.projector.w', 'module.projector.w',
                    'module.losses.0.w', 'module.auxiliary_head.w')
    plain, exported = plain_checkpoint(dict(state_dict=state))
    assert exported is None
    assert list(plain['state_dict']) == ['backbone.w', 'decode_head.projector.w',
                                         'auxiliary_head.w']


@pytest.mark.parametrize('checkpoint, network, message', [
    ([1], None, 'no state_dict'),
    (weights('backbone.w'), None, 'no state_dict'),
    (dict(state_dict={}), None, 'begin with nothing'),
    (dict(state_dict=weights('conv1.w', 'fc.w')), None, 'names begin with conv1, fc'),
    (dict(state_dict=weights('teacher.neck.w')), None, 'names of its teacher begin with neck'),
    (dict(state_dict=weights('student.decode_head.w')), None, 'names begin with student'),
    (dict(state_dict=weights('decode_head.w')), 'student', 'has no student'),
])
def test_what_is_no_such_checkpoint_is_refused(checkpoint, network, message):
    with pytest.raises(ValueError, match=message):
        plain_checkpoint(checkpoint, network)


SEMI, SUPERVISED = 'configs/{}_semi-{}.py', 'configs/{}_supervised-{}.py'


@pytest.mark.parametrize('name, number, left', [
    ('reco/deeplabv3plus_r101_voc', 92, []),
    ('reco/deeplabv3plus_r101_camvid', 20, ['CamVidDataset']),
    ('reco/deeplabv2_r101_cityscapes', 20, ['DeepLabV2Head']),
    ('rc2l/maskformer_r101_voc', 92, []),
])
def test_semi_supervised_and_supervised_configs_lead_to_the_same_stock_one(name, number, left):
    plain = plain_config(Config.fromfile(SEMI.format(name, number)))
    assert plain.model.type == 'EncoderDecoder'
    assert plain.to_dict() == plain_config(
        Config.fromfile(SUPERVISED.format(name, number))).to_dict()
    assert own_types(plain.to_dict()) == left
    assert plain.get('custom_imports') == (dict(imports=['mmseg_reco']) if left else None)
    assert not [key for key in plain if key.startswith(('train', 'val', 'optim', 'custom_hooks'))]


def test_imports_of_others_stay():
    cfg = Config(dict(model=dict(type='EncoderDecoder', decode_head=dict(type='FCNHead')),
                      custom_imports=dict(imports=['mine', 'mmseg_reco.models'])))
    assert plain_config(cfg).custom_imports.imports == ['mine']
    cfg.custom_imports.imports = 'mmseg_reco'
    assert 'custom_imports' not in plain_config(cfg)


def test_the_preprocessor_is_the_one_that_was_used():
    stock = dict(type='SegDataPreProcessor', size=(8, 8))
    other = dict(type='SegDataPreProcessor', size=(4, 4))
    network = dict(type='EncoderDecoder', decode_head=dict(type='FCNHead'))

    def used(outer=None, inner=None, top=None):
        model = dict(type='RC2L', segmentor=dict(network, data_preprocessor=inner),
                     data_preprocessor=outer)
        return plain_model(model, top)['data_preprocessor']

    assert used(inner=stock, top=other) == stock
    assert used(top=stock) == stock
    assert used(outer=stock, top=other) == stock
    branches = dict(type='MultiBranchDataPreprocessor', data_preprocessor=stock)
    assert used(outer=branches, inner=other) == stock


def test_a_cascade_of_this_package_becomes_the_stock_one():
    heads = [dict(type='FCNHead'), dict(type='OCRHead')]
    model = dict(type='EmbeddingCascadeEncoderDecoder', num_stages=2, decode_head=heads,
                 losses=[dict(type='ReCoLoss')], projector=dict(channels=8), tap='x',
                 avg_non_ignore=False)
    assert plain_model(model) == dict(type='CascadeEncoderDecoder', num_stages=2,
                                      decode_head=heads, data_preprocessor=None)


def test_a_config_without_a_segmentor_is_refused():
    with pytest.raises(ValueError, match='model.decode_head'):
        plain_config(Config(dict(model=dict(type='FasterRCNN'))))


def test_what_inference_reads_is_there():
    network = dict(type='EncoderDecoder', decode_head=dict(type='FCNHead'))
    loader = dict(dataset=dict(type='BaseSegDataset', pipeline=[dict(type='LoadImageFromFile')]))
    plain = plain_config(Config(dict(model=network, test_dataloader=loader)))
    assert plain.test_pipeline == loader['dataset']['pipeline']
    assert plain.visualizer.type == 'SegLocalVisualizer'
    assert plain.default_scope == 'mmseg'
    own = dict(test_pipeline=[dict(type='A')], visualizer=dict(type='B'), default_scope='mine')
    plain = plain_config(Config(dict(own, model=network, test_dataloader=loader)))
    assert {key: plain[key] for key in own} == own
