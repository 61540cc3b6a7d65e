# Licensed under the Apache License, Version 2.0.
import numpy as np
from PIL import Image

from mmseg_reco.datasets import SUNRGBDDataset


def test_labels_start_at_one(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    Image.new('RGB', (19, 2)).save(tmp_path / 'images' / 'img-000001.jpg')
    Image.fromarray(np.arange(38, dtype=np.uint8).reshape(2, 19)).save(
        tmp_path / 'labels' / 'img-000001.png')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                dict(type='PackSegInputs')]
    data = SUNRGBDDataset(data_root=str(tmp_path), pipeline=pipeline,
                          data_prefix=dict(img_path='images', seg_map_path='labels'))
    labels = data[0]['data_samples'].gt_sem_seg.data.flatten().tolist()
    assert labels == [255, *range(37)]
    classes, palette = data.metainfo['classes'], data.metainfo['palette']
    assert len(set(classes)) == 37 and classes[0] == 'wall' and classes[36] == 'bag'
    assert len({tuple(colour) for colour in palette} - {(0, 0, 0)}) == 37
