# Licensed under the Apache License, Version 2.0.
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import DefaultSampler
from mmseg.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mmseg_reco.datasets import MultiSourceSampler
from mmseg_reco.engine.hooks import MeanTeacherHook
from mmseg_reco.engine.hooks.check_data_hook import CheckDataHook, describe


@pytest.fixture
def root(tmp_path):
    """Pairs a-d and lists of some of them."""
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    for name in 'abcd':
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / 'masks' / f'{name}.png')
        Image.new('RGB', (6, 4)).save(tmp_path / 'images' / f'{name}.jpg')
    for names in ('a', 'ab', 'bcd', 'cd'):
        (tmp_path / f'{names}.txt').write_text('\n'.join(names))
    return tmp_path


def config_of(root, names):
    return dict(
        type='BaseSegDataset', data_root=str(root), ann_file=f'{names}.txt',
        serialize_data=False,
        metainfo=dict(classes=('road', 'tree')),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                  dict(type='PackSegInputs')])


def build(root, names):
    return DATASETS.build(config_of(root, names))


def semi(root, labeled='ab', unlabeled='cd'):
    return DATASETS.build(dict(
        type='LabeledUnlabeledDataset', dataset=config_of(root, labeled),
        unlabeled=f'{unlabeled}.txt'))


def runner_of(train, val=None, sampler=None, burn_in=0):
    loader = DataLoader(train, 4, sampler=sampler)
    val_loop = None if val is None else SimpleNamespace(dataloader=DataLoader(val))
    cfg = dict(model=dict(semi_train_cfg=dict(burn_in=burn_in))) if burn_in else {}
    return SimpleNamespace(train_dataloader=loader, val_loop=val_loop, cfg=cfg, hooks=[],
                           logger=logging.getLogger('test'))


def test_good_data(root, caplog):
    train = semi(root, 'ab', 'bcd')
    sampler = MultiSourceSampler(train, 4, [1, 1])
    CheckDataHook().before_train(runner_of(train, sampler=sampler))
    assert 'train.labeled are in train.unlabeled' in caplog.text


def test_names_what_is_wrong(root):
    with pytest.raises(ValueError, match=r'a\.jpg: in train and in val'):
        CheckDataHook().before_train(runner_of(build(root, 'ab'), build(root, 'a')))
    train = semi(root)
    with pytest.raises(ValueError, match='batch_size is 4.*MultiSourceSampler 8'):
        CheckDataHook().before_train(
            runner_of(train, sampler=MultiSourceSampler(train, 8, [1, 1])))


def test_a_stock_sampler_fits_images_of_both_branches(root):
    pack = [dict(type='PackSemiSegInputs')]
    both = dict(type='MultiBranch', branch_field=['sup', 'unsup'], sup=pack, unsup=pack)
    config = config_of(root, 'ab')
    train = DATASETS.build(dict(config, pipeline=[*config['pipeline'][:-1], both]))
    for data in (train, semi(root)):
        runner = runner_of(data, sampler=DefaultSampler(data))
        runner.cfg['model'] = dict(segmentor=dict())
        runner.hooks = [MeanTeacherHook()]
        if data is train:
            CheckDataHook().before_train(runner)
        else:
            with pytest.raises(ValueError, match='DefaultSampler.*MultiSourceSampler'):
                CheckDataHook().before_train(runner)


def test_burn_in_of_the_sampler_may_not_be_longer_than_that_of_the_model(root):
    train = semi(root)
    sampler = MultiSourceSampler(train, 4, [1, 1], burn_in=3)
    for burn_in in (3, 4):
        CheckDataHook().before_train(runner_of(train, sampler=sampler, burn_in=burn_in))
    with pytest.raises(ValueError, match=r'MultiSourceSampler is 3, and .*burn_in 2: make them'):
        CheckDataHook().before_train(runner_of(train, sampler=sampler, burn_in=2))


def test_skipped_images_are_counted_at_the_end(root, caplog):
    train = semi(root)
    CheckDataHook().after_train(runner_of(train))
    assert not caplog.text
    for part, count in zip(train.datasets, (2, 3), strict=True):
        part.pipeline.transforms[0].skipped += count
    CheckDataHook().after_train(runner_of(train))
    assert '5 times a damaged image was skipped' in caplog.text


def test_long_lists_are_cut():
    message = describe([(str(number), 'bad') for number in range(30)])
    assert 'have 30 problems' in message and 'and 20 more' in message
    assert message.count(': bad') == 10
