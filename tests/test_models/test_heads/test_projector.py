# Licensed under the Apache License, Version 2.0.
import pytest
import torch

from mmseg_reco.models import Projector


@pytest.mark.parametrize('channels, separable, parameters', [
    (8, False, 5 * 8 * 9 + 2 * 8 + 8 * 6 + 6),  # 3x3 without bias, BN, 1x1 with bias
    (None, False, 5 * 6 + 6),
    (8, True, 5 * 9 + 2 * 5 + 5 * 8 + 2 * 8 + 8 * 6 + 6),  # 3x3 by channel, BN, 1x1, BN, 1x1
])
def test_layers_are_the_papers(channels, separable, parameters):
    projector = Projector(5, channels, embed_dims=6, separable=separable)
    assert sum(p.numel() for p in projector.parameters()) == parameters
    assert projector(torch.randn(2, 5, 7, 9)).shape == (2, 6, 7, 9)


def test_representations_are_signed():
    torch.manual_seed(0)
    output = Projector(5, 8, embed_dims=6)(torch.randn(2, 5, 7, 9))
    assert output.min() < 0 < output.max()
