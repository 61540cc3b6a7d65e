# Licensed under the Apache License, Version 2.0.
import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize('channels, separable', [(8, False), (None, False), (8, True)])
def test_representations_are_those_of_the_layers_written_out(channels, separable):
    torch.manual_seed(0)
    projector = Projector(5, channels, embed_dims=6, separable=separable)
    x = torch.randn(2, 5, 7, 9)
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter)
    *weights, last, bias = projector.parameters()
    output = projector(x)
    for conv, scale, shift in zip(*[iter(weights)] * 3, strict=True):
        x = F.conv2d(x, conv, padding=conv.size(-1) // 2, groups=x.size(1) // conv.size(1))
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), False, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        x = x.clamp_min(0)
    torch.testing.assert_close(output, F.conv2d(x, last, bias), rtol=1e-4, atol=1e-5)
