# Licensed under the Apache License, Version 2.0.
"""LabeledUnlabeledDataset on stock dataset configs, files on disk, real pipelines."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmseg.datasets import PascalVOCDataset
from mmseg.registry import DATASETS
from PIL import Image
from stock_pipeline import STOCK_PIPELINE
from torch.utils.data import DataLoader

import mmseg_reco  # noqa: F401

NAMES = [f'2007_00{i:04d}' for i in range(6)]


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)  # noqa: NPY002


def write_pair(root, name, number, with_mask=True, images='JPEGImages', masks='Masks',
               img_suffix='.jpg', mask_suffix='.png'):
    for folder in (images, masks):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(
        str(root / images / name) + img_suffix)
    if with_mask:
        mask = rng.integers(0, 19, (48, 64), np.uint8)
        Image.fromarray(mask).save(str(root / masks / name) + mask_suffix)


@pytest.fixture
def voc(tmp_path):
    """A small VOC: six images with masks, and lists."""
    for number, name in enumerate(NAMES):
        write_pair(tmp_path, name, number)
    (tmp_path / 'train.txt').write_text('\n'.join(NAMES) + '\n')
    (tmp_path / 'labeled.txt').write_text('\n'.join(NAMES[:2]) + '\n')
    (tmp_path / 'unlabeled.txt').write_text('\n'.join(NAMES[2:]) + '\n')
    return dict(
        type='PascalVOCDataset',
        data_root=str(tmp_path),
        serialize_data=False,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='Masks'),
        ann_file='train.txt',
        pipeline=deepcopy(STOCK_PIPELINE))


def build(dataset, **kwargs):
    return DATASETS.build(dict(type='LabeledUnlabeledDataset', dataset=dataset, **kwargs))


def names_of(dataset):
    return [dataset.get_data_info(i)['img_path'].split('/')[-1][:-4] for i in range(len(dataset))]


def test_case_one_splits_hides_and_collates(voc):
    before = deepcopy(voc)
    data = build(voc, labeled='labeled.txt', unlabeled='unlabeled.txt')
    assert voc == before  # the user's config is shared with other configs
    assert [names_of(part) for part in data.datasets] == [NAMES[:2], NAMES[2:]]

    batch = pseudo_collate([data[0], data[2]])
    assert batch['inputs']['sup'][1] is None and batch['inputs']['unsup'][0] is None
    assert batch['inputs']['sup'][0].shape == batch['inputs']['unsup'][1].shape == (3, 32, 32)
    labeled, unlabeled = batch['data_samples']['sup'][0], batch['data_samples']['unsup'][1]
    assert (labeled.gt_sem_seg.data != 255).any() and 'hidden_sem_seg' not in labeled
    assert (unlabeled.gt_sem_seg.data == 255).all()
    assert unlabeled.hidden_sem_seg.data.shape == (1, 32, 32)
    assert set(labeled.metainfo_keys()) == {'img_path', 'flip', 'img_shape'}
    assert 'flip' not in unlabeled.metainfo_keys()


def test_hidden_truth_is_the_mask_under_the_image(voc, tmp_path):
    """An image that encodes its mask in colours: after the weak view they must still agree."""
    for name in NAMES:
        mask = np.asarray(Image.open(tmp_path / 'Masks' / f'{name}.png'))
        Image.fromarray(np.repeat(mask[..., None] * 10, 3, axis=2)).save(
            tmp_path / 'JPEGImages' / f'{name}.png')
    voc['img_suffix'] = '.png'
    data = build(voc, labeled='labeled.txt', unlabeled='unlabeled.txt').datasets[1]
    for index in range(len(data)):
        item = data[index]
        image, sample = item['inputs']['unsup'], item['data_samples']['unsup']
        hidden = sample.hidden_sem_seg.data
        assert (image[:1] == hidden * 10).all()
        assert (sample.gt_sem_seg.data == 255).all()


@pytest.mark.parametrize('prefix', [
    dict(img_path='JPEGImages'),  # no masks at all
    dict(img_path='JPEGImages', seg_map_path='nowhere'),
])
def test_unlabeled_images_without_masks(voc, prefix):
    data = build(voc, labeled='labeled.txt',
                 unlabeled=dict(data_prefix=prefix, ann_file='unlabeled.txt'))
    assert names_of(data.datasets[1]) == NAMES[2:]
    sample = data[len(data) - 1]['data_samples']['unsup']
    assert (sample.gt_sem_seg.data == 255).all() and 'hidden_sem_seg' not in sample


def test_some_masks_missing(voc, tmp_path):
    (tmp_path / 'Masks' / f'{NAMES[3]}.png').unlink()
    data = build(voc, labeled='labeled.txt', unlabeled='unlabeled.txt').datasets[1]
    hidden = ['hidden_sem_seg' in data[i]['data_samples']['unsup'] for i in range(4)]
    assert hidden == [True, False, True, True]


def test_unlabeled_folder_without_list(voc, tmp_path):
    for number in range(3):
        write_pair(tmp_path, f'extra_{number}', number, with_mask=False, images='More')
    config = dict(voc, type='BaseSegDataset', metainfo=dict(classes=[str(c) for c in range(19)]))
    data = build(config, unlabeled=dict(data_prefix=dict(img_path='More')))
    assert names_of(data.datasets[0]) == NAMES
    assert names_of(data.datasets[1]) == ['extra_0', 'extra_1', 'extra_2']
    assert (data[6]['data_samples']['unsup'].gt_sem_seg.data == 255).all()


def test_case_two_gives_the_same_pixels_to_both_halves(voc):
    pipeline = [p for p in STOCK_PIPELINE if p['type'] not in ('RandomResize', 'RandomCrop', 'Pad')]
    config = dict(voc, type='PartialVOCDataset', level='p0', seed=3, pipeline=pipeline)
    data = build(config)
    assert names_of(data.datasets[0]) == names_of(data.datasets[1]) == NAMES
    for index in range(len(NAMES)):
        weak = data.datasets[1][index]['data_samples']['unsup']
        given, truth = weak.gt_sem_seg.data, weak.hidden_sem_seg.data
        classes = truth[truth != 255].unique()
        assert (given != 255).sum() == len(classes)  # one pixel per class
        assert (given[given != 255] == truth[given != 255]).all()
        sup = data.datasets[0][index]['data_samples']['sup']
        labels = sup.gt_sem_seg.data
        if sup.flip:
            labels = labels.flip(-1)
        assert (labels == given).all()


@pytest.mark.parametrize('resize', [
    dict(type='RandomResize', scale=(128, 96), ratio_range=(1, 1), keep_ratio=True),
    dict(type='RandomChoiceResize', scales=[(128, 96)], keep_ratio=True),
    dict(type='Resize', scale=(128, 96))])
def test_case_two_chooses_the_pixels_of_both_halves_at_one_size(voc, resize):
    config = dict(voc, type='PartialVOCDataset', level='p0', pipeline=[
        *STOCK_PIPELINE[:2], resize, STOCK_PIPELINE[-1]])
    data = build(config)
    for index in range(len(NAMES)):
        labels, given = (part[index]['data_samples'][branch].gt_sem_seg.data for part, branch in
                         zip(data.datasets, ('sup', 'unsup'), strict=True))
        assert given.shape == (1, 96, 128) and torch.equal(labels, given)


def test_a_data_set_with_another_void_label_has_it_everywhere(voc):
    """Class 11 is void here; images are padded, too."""
    pipeline = [*STOCK_PIPELINE[:2], dict(type='Pad', size=(50, 70), pad_val=dict(seg=11)),
                STOCK_PIPELINE[-1]]
    voc.update(ignore_index=11, pipeline=pipeline)
    hidden = build(voc, labeled='labeled.txt', unlabeled='unlabeled.txt').datasets[1]
    partial = build(dict(type='PartialLabelDataset', level='p0', dataset=voc))
    for index in range(4):
        assert (hidden[index]['data_samples']['unsup'].gt_sem_seg.data == 11).all()
        for part, branch in zip(partial.datasets, ('sup', 'unsup'), strict=True):
            sample = part[index]['data_samples'][branch]
            given, truth = sample.gt_sem_seg.data, sample.hidden_sem_seg.data
            assert (given != 11).sum() == len(truth.unique()) - 1  # one pixel of each class
            assert (truth[:, 48:] == 11).all()


def test_case_two_lists_can_be_restricted(voc):
    data = build(dict(voc, type='PartialVOCDataset', level='p0', ann_file='labeled.txt'))
    assert names_of(data.datasets[0]) == names_of(data.datasets[1]) == NAMES[:2]
    hidden = build(dict(voc, type='PartialVOCDataset', level='p0'), labeled='labeled.txt',
                   unlabeled='unlabeled.txt')
    sample = hidden[3]['data_samples']['unsup']
    assert (sample.gt_sem_seg.data == 255).all() and (sample.hidden_sem_seg.data != 255).any()


def test_hide_labels_can_be_chosen(voc):
    shown = build(voc, labeled='labeled.txt', unlabeled='unlabeled.txt', hide_labels=False)
    assert (shown[2]['data_samples']['unsup'].gt_sem_seg.data != 255).any()
    hidden = build(voc, hide_labels=True)
    assert (hidden[6]['data_samples']['unsup'].gt_sem_seg.data == 255).all()


def test_wrapped_datasets(voc):
    """The stock VOC-aug config concatenates two datasets; repeated datasets occur as well."""
    concat = dict(type='ConcatDataset', datasets=[dict(voc, ann_file='labeled.txt'),
                                                  dict(voc, ann_file='unlabeled.txt')])
    data = build(concat)
    assert len(data.datasets[0]) == len(data.datasets[1]) == 6
    assert data[7]['inputs']['unsup'].shape == (3, 32, 32)
    with pytest.raises(ValueError, match='one dataset'):
        build(concat, labeled='labeled.txt', unlabeled='unlabeled.txt')
    repeated = build(dict(type='RepeatDataset', times=2, dataset=voc), labeled='labeled.txt',
                     unlabeled='unlabeled.txt')
    assert len(repeated.datasets[0]) == 4


def test_partial_labels_around_the_dataset(voc):
    """A wrapper that builds what it wraps itself."""
    config = dict(type='PartialLabelDataset', level='p0', dataset=voc)
    data = build(config, labeled='labeled.txt', unlabeled='unlabeled.txt')
    assert [len(part) for part in data.datasets] == [2, 4]
    labels = data[0]['data_samples']['sup'].gt_sem_seg.data
    assert 0 < (labels != 255).sum() <= 19
    assert (data[2]['data_samples']['unsup'].gt_sem_seg.data == 255).all()


def test_pools_and_lists_of_several_datasets(voc, tmp_path):
    """Lists are looked up in each data_root; folders and lists make one pool."""
    other = tmp_path / 'other'
    for number, name in enumerate('xyz'):
        write_pair(other, name, number)
    (other / 'labeled.txt').write_text('y')
    (other / 'unlabeled.txt').write_text('z\nx')
    write_pair(tmp_path, 'extra', 0, with_mask=False, images='More')
    concat = dict(type='ConcatDataset', datasets=[voc, dict(voc, data_root=str(other))])
    data = build(concat, labeled='labeled.txt', unlabeled='unlabeled.txt')
    assert [[names_of(part) for part in half.datasets] for half in data.datasets] == [
        [NAMES[:2], ['y']], [NAMES[2:], ['z', 'x']]]
    data = build(concat, labeled='labeled.txt', unlabeled=[
        'unlabeled.txt', dict(type='BaseSegDataset', data_prefix=dict(img_path='More'))])
    lists, folder = data.datasets[1].datasets
    assert [names_of(part) for part in lists.datasets] == [NAMES[2:], ['z', 'x']]
    assert names_of(folder) == ['extra']
    assert (data[len(data) - 1]['data_samples']['unsup'].gt_sem_seg.data == 255).all()
    with pytest.raises(ValueError, match='data_root of their own'):
        build(concat, labeled=str(tmp_path / 'labeled.txt'), unlabeled='unlabeled.txt')


def test_cityscapes_names(tmp_path):
    names = ['aachen/aachen_000000_000019', 'bochum/bochum_000000_000313']
    for number, name in enumerate(names):
        write_pair(tmp_path, name, number, images='leftImg8bit/train', masks='gtFine/train',
                   img_suffix='_leftImg8bit.png', mask_suffix='_gtFine_labelTrainIds.png')
    (tmp_path / 'l.txt').write_text(names[1])
    (tmp_path / 'u.txt').write_text(names[0])
    config = dict(
        type='CityscapesDataset', data_root=str(tmp_path), pipeline=STOCK_PIPELINE,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'))
    assert len(build(config)) == 4
    data = build(config, labeled='l.txt', unlabeled='u.txt')
    assert data.datasets[0].get_data_info(0)['seg_map_path'].endswith(
        'gtFine/train/bochum/bochum_000000_000313_gtFine_labelTrainIds.png')
    sample = data[1]['data_samples']['unsup']
    assert sample.img_path.endswith('aachen_000000_000019_leftImg8bit.png')
    assert (sample.gt_sem_seg.data == 255).all() and (sample.hidden_sem_seg.data != 255).any()


def test_loader_with_sampler_and_workers(voc):
    from mmseg_reco.datasets import MultiSourceSampler
    data = build(voc, labeled='labeled.txt', unlabeled='unlabeled.txt')
    loader = DataLoader(data, batch_size=4, num_workers=1, collate_fn=pseudo_collate,
                        sampler=MultiSourceSampler(data, 4, [1, 1], seed=0))
    for _, batch in zip(range(3), loader, strict=False):
        assert [x is None for x in batch['inputs']['sup']] == [False, False, True, True]
        assert [x is None for x in batch['data_samples']['unsup']] == [True, True, False, False]


def test_errors_name_the_file(voc, tmp_path):
    with pytest.raises(FileNotFoundError, match='missing.txt'):
        build(voc, labeled='missing.txt', unlabeled='unlabeled.txt')
    (tmp_path / 'empty.txt').write_text('\n')
    with pytest.raises(ValueError, match='empty.txt'):
        build(voc, labeled='labeled.txt', unlabeled='empty.txt')
    with pytest.raises(ValueError, match='PackSegInputs'):
        build(dict(voc, pipeline=STOCK_PIPELINE[:-1]))


@pytest.mark.parametrize('text', [
    '{}\n\n{}\n\n',
    '\ufeff{}\r\n{}',
    'JPEGImages/{0}.jpg Masks/{0}.png\nJPEGImages/{1}.jpg Masks/{1}.png\n',
], ids=['blank lines', 'mark of Windows', 'pairs'])
@pytest.mark.parametrize('kind', ['PascalVOCDataset', 'BaseSegDataset'])
def test_every_form_of_a_list_is_trained_on(voc, tmp_path, kind, text):
    (tmp_path / 'list.txt').write_bytes(text.format(*NAMES[1:3]).encode())
    config = dict(voc, type=kind, metainfo=dict(classes=PascalVOCDataset.METAINFO['classes']))
    data = build(config, labeled='list.txt', unlabeled=['unlabeled.txt', 'list.txt'])
    assert names_of(data.datasets[0]) == NAMES[1:3]
    assert [names_of(part) for part in data.datasets[1].datasets] == [NAMES[2:], NAMES[1:3]]
    assert data.datasets[0].ann_file == str(tmp_path / 'list.txt')
    assert data[1]['inputs']['sup'].shape == (3, 32, 32)


@pytest.mark.parametrize('absolute', [False, True])
def test_a_folder_in_the_place_of_a_list_is_refused(voc, tmp_path, absolute):
    """mmseg would take all images, and with them as labelled what is to be predicted."""
    (tmp_path / 'splits/2').mkdir(parents=True)
    folder = str(tmp_path / 'splits/2') if absolute else 'splits/2'
    for lists in (dict(labeled=folder, unlabeled='unlabeled.txt'),
                  dict(labeled='labeled.txt', unlabeled=folder)):
        with pytest.raises(ValueError, match=f'is a folder: .* such as {folder}/labeled.txt'):
            build(voc, **lists)


def test_unlabeled_pipeline_given(voc):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                dict(type='CenterCrop', crop_size=(16, 16)), dict(type='PackSegInputs')]
    data = build(voc, labeled='labeled.txt', unlabeled='unlabeled.txt',
                 unlabeled_pipeline=pipeline)
    assert data[0]['inputs']['sup'].shape == (3, 32, 32)
    item = data[2]
    assert item['inputs']['unsup'].shape == (3, 16, 16)
    sample = item['data_samples']['unsup']
    assert (sample.gt_sem_seg.data == 255).all()
    assert 'hidden_sem_seg' not in sample  # CenterCrop did not crop it: no longer aligned
