# Licensed under the Apache License, Version 2.0.
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
from PIL import Image

import mmseg_reco  # noqa: F401
from mmseg_reco.datasets.partial_labels import image_rng, sparsify

REAL = Path('../shared/data/camvid')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def folder(tmp_path):
    """Three images with masks of classes 0-10 in blocks, and some ignored or void pixels."""
    for name in ('images', 'masks'):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        mask = np.repeat(np.repeat(rng.integers(0, 11, (6, 8), np.uint8), 5, 0), 5, 1)
        mask[:3] = 255
        Image.fromarray(mask).save(tmp_path / 'masks' / f'{number}.png')
        Image.new('RGB', (40, 30)).save(tmp_path / 'images' / f'{number}.png')
    (tmp_path / 'list.txt').write_text('0\n1\n2\n')
    return dict(data_root=str(tmp_path), img_suffix='.png', seg_map_suffix='.png',
                serialize_data=False, pipeline=PIPELINE,
                data_prefix=dict(img_path='images', seg_map_path='masks'))


def labels_of(data, index=0):
    return data[index]['data_samples'].gt_sem_seg.data[0].numpy()


def expected_of(folder, name, level, seed, reduce=False):
    mask = np.array(Image.open(Path(folder['data_root']) / 'masks' / f'{name}.png'))
    if reduce:
        mask = np.where(mask == 0, 255, mask - 1 * (mask != 255)).astype(np.uint8)
    return sparsify(mask, level, image_rng(seed, str(name)))


@pytest.mark.parametrize(('kind', 'more'), [
    ('PartialVOCDataset', dict(ann_file='list.txt')), ('PartialCityscapesDataset', {}),
    ('PartialCamVidDataset', {}), ('PartialSUNRGBDDataset', {})])
def test_thin_classes(folder, kind, more):
    stock = DATASETS.get(kind.removeprefix('Partial')) or DATASETS.get('PascalVOCDataset')
    for level in ('p0', 'p5'):
        data = DATASETS.build(dict(type=kind, level=level, seed=2, **folder, **more))
        assert isinstance(data, stock) and data.metainfo['classes'] == stock.METAINFO['classes']
        for index in range(3):
            np.testing.assert_array_equal(
                labels_of(data, index),
                expected_of(folder, index, level, 2, reduce='SUN' in kind))
    complete = DATASETS.build(dict(type=kind, **folder, **more))
    plain = stock(**folder, **more)
    np.testing.assert_array_equal(labels_of(complete), labels_of(plain))


def test_any_dataset_also_below_wrappers(folder):
    stock = dict(type='BaseSegDataset', metainfo=dict(classes=[str(c) for c in range(11)]),
                 **folder)
    for inner, size in ((stock, 3), (dict(type='RepeatDataset', times=2, dataset=stock), 6),
                        (dict(type='ConcatDataset', datasets=[stock, stock]), 6)):
        data = DATASETS.build(dict(type='PartialLabelDataset', dataset=inner, level='p0', seed=1))
        assert len(data) == size and data.metainfo['classes'] == stock['metainfo']['classes']
        for index in range(size):
            np.testing.assert_array_equal(
                labels_of(data, index), expected_of(folder, index % 3, 'p0', 1))
    assert stock['pipeline'] == PIPELINE
    whole = DATASETS.build(dict(type='PartialLabelDataset', dataset=stock, level=None))
    assert len(np.unique(labels_of(whole))) > 5


def test_seeds_and_images_differ(folder):
    def given(seed, index):
        data = DATASETS.build(dict(type='PartialCamVidDataset', level='p0', seed=seed, **folder))
        return labels_of(data, index)
    assert (given(0, 0) == given(0, 0)).all()
    assert (given(0, 0) != given(1, 0)).any() and (given(0, 0) != given(0, 1)).any()


def test_single_pixels_survive_a_fixed_resize(folder):
    resize = dict(type='Resize', scale=(20, 15))
    pipeline = [*PIPELINE[:2], resize, dict(type='RandomFlip', prob=0.0), PIPELINE[2]]
    data = DATASETS.build(dict(type='PartialCamVidDataset', level='p0',
                               **dict(folder, pipeline=pipeline)))
    small = DATASETS.build(dict(type='CamVidDataset', **dict(folder, pipeline=pipeline)))
    for index in range(3):
        given, complete = labels_of(data, index), labels_of(small, index)
        classes = set(np.unique(complete)) - {255}
        assert sorted(given[given != 255]) == sorted(classes)
        assert (complete[given != 255] == given[given != 255]).all()


def test_no_annotations(folder):
    with pytest.raises(ValueError, match='LoadAnnotations'):
        DATASETS.build(dict(type='PartialCamVidDataset', level='p0',
                            **dict(folder, pipeline=PIPELINE[:1])))


@pytest.mark.skipif(not REAL.exists(), reason=f'{REAL} is not here')
def test_real_camvid():
    common = dict(data_root=str(REAL), ann_file='train.txt', pipeline=PIPELINE,
                  data_prefix=dict(img_path='train', seg_map_path='trainannot'))
    data = DATASETS.build(dict(type='PartialCamVidDataset', level='p0', **common))
    complete = DATASETS.build(dict(type='CamVidDataset', **common))
    for index in range(0, 367, 90):
        given, truth = labels_of(data, index), labels_of(complete, index)
        classes = set(np.unique(truth)) - {255}
        assert 5 < len(classes) == (given != 255).sum()
        assert (truth[given != 255] == given[given != 255]).all()
