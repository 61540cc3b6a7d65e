# Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from mmseg_reco.datasets.transforms import MultiBranch, PackSemiSegInputs


def results_of(height=4, width=5, **more):
    img = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return dict(img=img, gt_seg_map=img[..., 0] % 7, seg_fields=['gt_seg_map'], **more)


class TestPackSemiSegInputs:
    def test_without_hidden_map(self):
        results = results_of(img_path='a.jpg')
        packed = PackSemiSegInputs(meta_keys=('img_path',))(results)
        assert torch.equal(packed['inputs'], torch.from_numpy(results['img']).permute(2, 0, 1))
        sample = packed['data_samples']
        assert sample.metainfo == dict(img_path='a.jpg') and 'hidden_sem_seg' not in sample
        assert sample.gt_sem_seg.data.dtype == torch.int64

    def test_hidden_map(self):
        hidden = np.random.default_rng(0).integers(0, 9, (4, 5), np.uint8)
        sample = PackSemiSegInputs()(results_of(hidden_seg_map=hidden))['data_samples']
        assert sample.hidden_sem_seg.data.dtype == torch.int64
        np.testing.assert_array_equal(sample.hidden_sem_seg.data.numpy(), hidden[None])

    def test_hidden_map_of_a_padded_image(self):
        hidden = np.zeros((3, 2), np.uint8)
        sample = PackSemiSegInputs(ignore_index=77)(results_of(hidden_seg_map=hidden))[
            'data_samples']
        expected = np.full((1, 4, 5), 77)
        expected[:, :3, :2] = 0
        np.testing.assert_array_equal(sample.hidden_sem_seg.data.numpy(), expected)

    def test_hidden_map_that_no_longer_fits(self):
        sample = PackSemiSegInputs()(results_of(hidden_seg_map=np.zeros((9, 9), np.uint8)))[
            'data_samples']
        assert 'hidden_sem_seg' not in sample


class TestMultiBranch:
    fields = ('sup', 'unsup')

    def test_collates_with_none_for_the_other_branch(self):
        sup = MultiBranch(self.fields, sup=[dict(type='PackSemiSegInputs')])
        unsup = MultiBranch(self.fields, unsup=dict(type='PackSemiSegInputs'))
        batch = pseudo_collate([sup(results_of()), unsup(results_of()), sup(results_of())])
        assert list(batch) == ['inputs', 'data_samples']
        for part in batch.values():
            assert [value is None for value in part['sup']] == [False, True, False]
            assert [value is None for value in part['unsup']] == [True, False, True]
        assert batch['inputs']['sup'][0].shape == (3, 4, 5)

    def test_branches_start_from_equal_results(self):
        def spoil(results):
            results['img'] += 1
            return dict(inputs=results['img'][0, 0, 0])

        packed = MultiBranch(['a', 'b', 'c'], a=[spoil], b=[spoil])(results_of())
        assert packed == dict(inputs=dict(a=1, b=1, c=None))

    def test_failed_pipeline_draws_another_image(self):
        assert MultiBranch(['a'], a=[lambda results: None])(results_of()) is None

    def test_refuses_unknown_branch(self):
        with pytest.raises(ValueError, match='weak'):
            MultiBranch(['sup'], weak=[])
