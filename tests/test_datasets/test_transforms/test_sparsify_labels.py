# Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmseg.datasets.transforms import LoadAnnotations  # noqa: F401, registers it
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_reco.datasets import SparsifyLabels, sparsify
from mmseg_reco.datasets.partial_labels import image_rng


def test_transform_works_on_training_labels(tmp_path):
    blocks = np.random.default_rng(3).choice([0, 3, 7, 9, 20, 255], size=(11, 14))
    stored = np.kron(blocks, np.ones((6, 6))).astype(np.uint8)
    path = tmp_path / 'street.png'
    Image.fromarray(stored).save(path)
    pipeline = Compose(
        [
            TRANSFORMS.build(dict(type='LoadAnnotations')),
            TRANSFORMS.build(dict(type='SparsifyLabels', level='p5', seed=4)),
        ]
    )
    results = pipeline(
        dict(
            img_path='elsewhere/street_leftImg8bit.jpg',
            seg_map_path=str(path),
            reduce_zero_label=True,
            label_map={6: 1},  # old label 7 of the file
            seg_fields=[],
        )
    )
    to_training_label = {0: 255, 3: 2, 7: 1, 9: 8, 20: 19, 255: 255}
    complete = np.vectorize(to_training_label.get, otypes=[np.uint8])(stored)
    np.testing.assert_array_equal(results['hidden_seg_map'], complete)
    np.testing.assert_array_equal(
        results['gt_seg_map'], sparsify(complete, 'p5', image_rng(4, 'street'))
    )
    assert sorted(results['seg_fields']) == ['gt_seg_map', 'hidden_seg_map']


def test_unknown_level():
    with pytest.raises(ValueError, match='p<percent>'):
        SparsifyLabels('5')
