# Licensed under the Apache License, Version 2.0.
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_reco.datasets import CamVidDataset

REAL = Path('../shared/data/camvid')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]


def make_camvid(root, suffix, names=('0001TP_1', 'Seq05VD_f2')):
    for folder in ('train', 'trainannot'):
        (root / folder).mkdir()
    for number, name in enumerate(names):
        mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
        Image.fromarray(mask).save(root / 'trainannot' / f'{name}.png')
        Image.fromarray(np.full((3, 4, 3), number, np.uint8)).save(root / 'train' / (name + suffix))
    (root / 'bare.txt').write_text('\n'.join(names) + '\n\n')
    (root / 'pairs.txt').write_text('\n'.join(
        f'/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png' for name in names))
    return dict(data_root=str(root), pipeline=PIPELINE, serialize_data=False,
                data_prefix=dict(img_path='train', seg_map_path='trainannot'))


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.jpeg'])
def test_both_list_forms_and_every_suffix(tmp_path, suffix):
    config = make_camvid(tmp_path, suffix)
    for arguments in (dict(ann_file='bare.txt'), dict(ann_file='pairs.txt'), {},
                      dict(ann_file='pairs.txt', img_suffix=suffix)):
        data = CamVidDataset(**config, **arguments)
        infos = [data.get_data_info(i) for i in range(len(data))]
        assert [info['img_path'] for info in infos] == [
            str(tmp_path / 'train' / f'{name}{suffix}') for name in ('0001TP_1', 'Seq05VD_f2')]
        assert all(Path(info['seg_map_path']).exists() for info in infos)


def test_void_is_ignored(tmp_path):
    data = CamVidDataset(**make_camvid(tmp_path, '.png'))
    labels = data[0]['data_samples'].gt_sem_seg.data.flatten().tolist()
    assert labels == [*range(11), 255]
    assert len(data.metainfo['classes']) == len(data.metainfo['palette']) == 11
    assert data.metainfo['classes'][8] == 'car'


def test_subset_of_classes(tmp_path):
    data = CamVidDataset(**make_camvid(tmp_path, '.png'), metainfo=dict(classes=('car', 'sky')))
    labels = data[0]['data_samples'].gt_sem_seg.data.flatten().tolist()
    assert labels == [1, *[255] * 7, 0, *[255] * 3]
    assert data.metainfo['palette'] == [[64, 0, 128], [128, 128, 128]]


def test_images_without_masks(tmp_path):
    config = make_camvid(tmp_path, '.png')
    config['data_prefix'].pop('seg_map_path')
    for arguments in ({}, dict(ann_file='pairs.txt')):
        assert 'seg_map_path' not in CamVidDataset(**config, **arguments).get_data_info(0)


def test_suffix_not_clear(tmp_path):
    config = make_camvid(tmp_path, '.png')
    Image.new('RGB', (2, 2)).save(tmp_path / 'train' / 'other.jpg')
    with pytest.raises(ValueError, match=r'\.jpg and \.png.*img_suffix'):
        CamVidDataset(**config)
    config['data_prefix']['img_path'] = 'trainannot'
    for mask in (tmp_path / 'trainannot').iterdir():
        mask.unlink()
    with pytest.raises(ValueError, match='holds no images'):
        CamVidDataset(**config)


@pytest.mark.skipif(not REAL.exists(), reason=f'{REAL} is not here')
def test_real_camvid():
    for split, size in (('train', 367), ('val', 101)):
        data = CamVidDataset(
            data_root=str(REAL), ann_file=f'{split}.txt', pipeline=PIPELINE,
            data_prefix=dict(img_path=split, seg_map_path=f'{split}annot'))
        assert len(data) == size
        seen = set()
        for index in range(0, size, 25):
            item = data[index]
            assert item['inputs'].shape == (3, 360, 480)
            labels = item['data_samples'].gt_sem_seg.data
            raw = np.asarray(Image.open(data.get_data_info(index)['seg_map_path']))
            assert ((labels[0].numpy() == 255) == (raw == 11)).all()
            seen |= set(labels.unique().tolist())
        assert seen == {*range(11), 255}
