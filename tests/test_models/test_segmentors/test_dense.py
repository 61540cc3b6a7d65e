# Licensed under the Apache License, Version 2.0.
import torch
from tiny_segmentor import SIZE, make_sample

from mmseg_reco.models.segmentors.dense import fill_padding


def test_padding_is_filled_at_the_resolution_of_the_maps():
    maps = torch.rand(2, 3, 8, 10)
    samples = [make_sample(torch.zeros(SIZE, dtype=torch.long), size) for size in (SIZE, (20, 12))]
    expected = maps.clone()
    expected[1, :, 5:] = 7
    expected[1, :, :, 3:] = 7
    assert torch.equal(fill_padding(maps, 7, SIZE, samples), expected)
    assert torch.equal(fill_padding(maps[:, 0], 7, SIZE, samples), expected[:, 0])
    assert fill_padding(maps, 7, SIZE, samples[:1] * 2) is maps
