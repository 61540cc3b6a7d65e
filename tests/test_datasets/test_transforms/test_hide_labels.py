# Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest

from mmseg_reco.datasets.transforms import HideLabels


def results_of(**more):
    img = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    return dict(img=img, gt_seg_map=img[..., 0] % 7, seg_fields=['gt_seg_map'], **more)


def test_moves_the_mask():
    results = results_of()
    truth = results['gt_seg_map'].copy()
    out = HideLabels()(results)
    assert (out['gt_seg_map'] == 255).all() and out['gt_seg_map'].dtype == np.uint8
    np.testing.assert_array_equal(out['hidden_seg_map'], truth)
    assert out['seg_fields'] == ['gt_seg_map', 'hidden_seg_map']


def test_complete_annotation_of_partial_labels_stays():
    complete = np.ones((4, 5), np.uint8)
    results = results_of(hidden_seg_map=complete)
    results['seg_fields'].append('hidden_seg_map')
    out = HideLabels()(results)
    assert out['hidden_seg_map'] is complete and (out['gt_seg_map'] == 255).all()
    assert out['seg_fields'] == ['gt_seg_map', 'hidden_seg_map']


@pytest.mark.parametrize('more', [{}, dict(seg_map_path='no/such/file.png')])
def test_image_without_mask(more):
    out = HideLabels(loader=dict(type='LoadAnnotations'))(
        dict(img=np.zeros((4, 5, 3), np.uint8), seg_fields=[], **more))
    assert (out['gt_seg_map'] == 255).all() and out['gt_seg_map'].shape == (4, 5)
    assert out['seg_fields'] == ['gt_seg_map'] and 'hidden_seg_map' not in out
