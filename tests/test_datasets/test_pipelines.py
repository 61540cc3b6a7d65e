# Licensed under the Apache License, Version 2.0.
import pytest
from mmcv.transforms import TRANSFORMS as MMCV_TRANSFORMS
from mmseg.registry import TRANSFORMS
from stock_pipeline import STOCK_PIPELINE

from mmseg_reco.datasets.pipelines import (
    hide_labels,
    leaf_configs,
    map_leaf_configs,
    sparsify_pipeline,
    to_branch,
    weak_pipeline,
)
from mmseg_reco.utils import type_name

CHOICES = 'RandomChoice', 'RandomOrder'


def names_of(pipeline):
    return [type_name(transform) for transform in pipeline]


class TestWeakPipeline:
    def test_stock(self):
        weak = weak_pipeline(STOCK_PIPELINE)
        assert names_of(weak) == [
            'LoadImageFromFile', 'LoadAnnotations', 'RandomResize', 'RandomCrop', 'Pad',
            'PackSegInputs']
        assert weak[2] == dict(
            type='RandomResize', scale=(64, 48), ratio_range=(1, 1), keep_ratio=True)
        assert weak[3]['cat_max_ratio'] == 1
        assert STOCK_PIPELINE[3]['cat_max_ratio'] == 0.75

    def test_paper(self):
        weak = weak_pipeline([
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='mmseg.RandomRescaleCrop', crop_size=321, ratio_range=(0.5, 1.5)),
            dict(type='RandomColorJitter'), dict(type='RandomGaussianBlur'),
            dict(type='RandomFlip', prob=0.5), dict(type='MyOwn'), dict(type='PackSegInputs')])
        assert names_of(weak) == [
            'LoadImageFromFile', 'LoadAnnotations', 'RandomRescaleCrop', 'MyOwn', 'PackSegInputs']
        assert weak[2]['ratio_range'] == (1, 1)

    def test_choice_of_sizes(self):
        """Mask2Former's pipelines: 0.5 to 2 times 512 in steps; 512 is the nominal size."""
        resize = dict(
            type='RandomChoiceResize', scales=[int(512 * x * 0.1) for x in range(5, 21)],
            resize_type='ResizeShortestEdge', max_size=2048)
        assert weak_pipeline([resize]) == [dict(resize, scales=[512])]

    def test_two_scales(self):
        weak = weak_pipeline([dict(type='RandomResize', scale=[(100, 50), (300, 150)])])
        assert weak == [dict(type='RandomResize', scale=(200, 100), ratio_range=(1, 1))]

    @pytest.mark.parametrize('name', CHOICES)
    def test_refuses_a_choice_of_pipelines(self, name):
        with pytest.raises(ValueError, match='unlabeled_pipeline'):
            weak_pipeline([dict(type=name, transforms=[])])

    def test_nothing_random_is_left(self):
        """Of all that mmcv, mmseg and this package have, but for crops at a random place."""
        names = {name for registry in (MMCV_TRANSFORMS, TRANSFORMS)
                 for name in registry.module_dict if 'Random' in name}
        names |= {'Albu', 'BioMedicalGaussianBlur', 'BioMedicalGaussianNoise',
                  'PhotoMetricDistortion'}
        names -= {'RandomResize', 'RandomChoiceResize', *CHOICES}  # see above
        assert len(names) > 15
        assert {*names_of(weak_pipeline([dict(type=name) for name in names]))} <= {
            'BioMedical3DRandomCrop', 'RandomCrop', 'RandomRescaleCrop'}


class TestSparsifyPipeline:
    def test_goes_behind_the_loader_and_a_fixed_resize(self):
        pipeline = [STOCK_PIPELINE[0], STOCK_PIPELINE[1], dict(type='Resize', scale=(20, 15)),
                    dict(type='RandomFlip', prob=0.0), STOCK_PIPELINE[-1]]
        sparse = sparsify_pipeline(pipeline, 'p0', 7)
        assert names_of(sparse) == [
            'LoadImageFromFile', 'LoadAnnotations', 'Resize', 'SparsifyLabels', 'RandomFlip',
            'PackSegInputs']
        assert sparse[3] == dict(type='SparsifyLabels', level='p0', seed=7, ignore_index=255)
        assert names_of(sparsify_pipeline(STOCK_PIPELINE, 'p0', 0))[:3] == [
            'LoadImageFromFile', 'LoadAnnotations', 'SparsifyLabels']

    def test_without_level_or_with_hidden_labels_nothing_changes(self):
        assert sparsify_pipeline(STOCK_PIPELINE, None, 0) == STOCK_PIPELINE
        hidden = hide_labels(STOCK_PIPELINE)
        assert sparsify_pipeline(hidden, 'p0', 0) == hidden

    def test_needs_annotations(self):
        with pytest.raises(ValueError, match='LoadAnnotations'):
            sparsify_pipeline(STOCK_PIPELINE[:1], 'p0', 0)


def test_hide_labels():
    assert hide_labels(STOCK_PIPELINE)[1] == dict(
        type='HideLabels', loader=dict(type='LoadAnnotations'), ignore_index=255)
    without = [STOCK_PIPELINE[0], STOCK_PIPELINE[-1]]
    assert names_of(hide_labels(without)) == ['LoadImageFromFile', 'HideLabels', 'PackSegInputs']


def test_to_branch():
    *head, last = to_branch(STOCK_PIPELINE, 'unsup')
    assert head == STOCK_PIPELINE[:-1]
    packing = dict(STOCK_PIPELINE[-1], type='PackSemiSegInputs', ignore_index=255)
    assert last == dict(type='MultiBranch', branch_field=['sup', 'unsup'], unsup=[packing])
    with pytest.raises(ValueError, match='PackSegInputs'):
        to_branch(STOCK_PIPELINE[:-1], 'sup')


def test_names_of_configs_classes_and_transforms():
    class Own:
        pass

    assert names_of([dict(type='mmseg.Own'), dict(type=Own), Own()]) == ['Own'] * 3


class TestMapLeafConfigs:
    leaf = dict(type='A', pipeline=[])

    def test_reaches_every_dataset_and_copies(self):
        config = dict(type='RepeatDataset', times=2, dataset=dict(
            type='ConcatDataset', datasets=[self.leaf, dict(self.leaf, type='B')]))
        edited = map_leaf_configs(config, lambda inner: {**inner, 'seen': inner['type']})
        inner = edited['dataset']['datasets']
        assert [part['seen'] for part in inner] == ['A', 'B'] and edited['times'] == 2
        assert leaf_configs(edited) == inner
        assert 'seen' not in str(config)

    @pytest.mark.parametrize('config', [
        dict(type='NoPipeline'),
        dict(type='MultiImageMixDataset', dataset=leaf, pipeline=[])])
    def test_refuses(self, config):
        with pytest.raises(ValueError, match=config['type']):
            map_leaf_configs(config, dict)
