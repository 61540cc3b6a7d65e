# Licensed under the Apache License, Version 2.0.
import pytest
import torch
import torch.nn.functional as F

from mmseg_reco.models.utils import resize_maps, take_nearest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_resize_maps_leaves_the_right_size_alone():
    maps = torch.rand(1, 2, 4, 6, generator=seeded())
    assert resize_maps(maps, (4, 6)) is maps
    torch.testing.assert_close(resize_maps(maps, (8, 9)),
                               F.interpolate(maps, (8, 9), mode='bilinear'))


@pytest.mark.parametrize('size', [(5, 7), (10, 14), (3, 20), (23, 9)])
def test_take_nearest_is_the_pixel_at_the_floor(size):
    maps = torch.randint(0, 2**40, (2, 10, 14), generator=seeded())
    out = take_nearest(maps, size)
    assert out.dtype == torch.int64
    for y in range(size[0]):
        for x in range(size[1]):
            assert torch.equal(out[:, y, x], maps[:, y * 10 // size[0], x * 14 // size[1]])
    small = maps % 2**20
    expected = F.interpolate(small[:, None].double(), size, mode='nearest')[:, 0].long()
    assert torch.equal(take_nearest(small, size), expected)
