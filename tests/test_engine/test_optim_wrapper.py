# Licensed under the Apache License, Version 2.0.
import torch
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn


def test_forward_passes_are_bfloat16_and_weights_are_not():
    torch.manual_seed(0)
    model, images = nn.Linear(8, 4), torch.randn(16, 8)
    wrapper = OPTIM_WRAPPERS.build(dict(
        type='CPUAmpOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=0.1)))
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        output = model(images)
    assert output.dtype == torch.bfloat16
    assert model(images).dtype == torch.float32
    wrapper.update_params(output.float().square().mean())
    assert model.weight.dtype == torch.float32

    expected = before.clone().requires_grad_()
    loss = torch.nn.functional.linear(images, expected, model.bias.detach()).square().mean()
    step = -0.1 * torch.autograd.grad(loss, expected)[0]
    assert torch.allclose(model.weight - before, step, atol=0.02 * step.abs().max())
