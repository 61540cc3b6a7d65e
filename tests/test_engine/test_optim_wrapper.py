# Licensed under the Apache License, Version 2.0.
import pytest
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


class Depthwise(nn.Module):
    """An ordinary convolution before depthwise ones with and without stride and dilation."""

    def __init__(self):
        super().__init__()
        self.full = nn.Conv2d(3, 8, 3, stride=2)
        self.plain = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.strided = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 8, 3, dilation=2, padding=2, groups=8)
        self.frozen = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8).requires_grad_(False)

    def forward(self, images):
        outputs = dict(full=self.full(images))
        for name in ('plain', 'strided', 'dilated', 'frozen'):
            outputs[name] = getattr(self, name)(outputs['full'])
        return outputs


def test_depthwise_convolutions_without_a_quick_bfloat16_gradient_stay_in_float32():
    torch.manual_seed(0)
    model, images = Depthwise(), torch.randn(2, 3, 16, 16)
    wrapper = OPTIM_WRAPPERS.build(dict(
        type='CPUAmpOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=0.1)))
    with wrapper.optim_context(model):
        outputs = model(images)
    kept = {name for name, output in outputs.items() if output.dtype == torch.float32}
    assert kept == {'strided', 'dilated'}

    outputs['strided'].square().mean().backward()
    weight = model.strided.weight.detach().clone().requires_grad_()
    # What comes in was rounded before, so that the rest is exact.
    expected = nn.functional.conv2d(outputs['full'].detach().float(), weight, model.strided.bias,
                                    stride=2, padding=1, groups=8)
    assert torch.equal(outputs['strided'], expected)
    expected.square().mean().backward()
    assert torch.allclose(model.strided.weight.grad, weight.grad)


def test_a_model_is_as_it_was_after_a_forward_pass_that_fails():
    model = Depthwise()
    wrapper = OPTIM_WRAPPERS.build(dict(
        type='CPUAmpOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=0.1)))
    with pytest.raises(RuntimeError), wrapper.optim_context(model):
        model(torch.randn(2, 5, 16, 16))
    assert 'forward' not in vars(model.strided)
    assert model(torch.randn(2, 3, 16, 16))['strided'].dtype == torch.float32
