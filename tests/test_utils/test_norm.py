# Licensed under the Apache License, Version 2.0.
import pytest
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmcv.ops import SyncBatchNorm

from mmseg_reco.utils import is_batch_norm


@pytest.mark.parametrize('kind', ['BN', 'BN1d', 'BN3d', 'SyncBN'])
def test_torchs(kind):
    assert is_batch_norm(build_norm_layer(dict(type=kind), 4)[1])


def test_mmcvs():
    """It can be built within a process group alone."""
    assert is_batch_norm(SyncBatchNorm.__new__(SyncBatchNorm))


@pytest.mark.parametrize('other', [
    nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, track_running_stats=True)])
def test_others(other):
    assert not is_batch_norm(other)
