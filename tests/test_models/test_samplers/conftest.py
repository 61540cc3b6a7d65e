# Licensed under the Apache License, Version 2.0.
import pytest
import torch


@pytest.fixture(params=['lowest', 'highest'])
def edge_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.rand` draws nothing but 0, or 1 - 2**-24; else once in 16 million: every few steps."""
    rand = torch.rand

    def edge_rand(*args, **kwargs):
        uniform = rand(*args, **kwargs)
        return torch.full_like(uniform, 0 if request.param == 'lowest' else 1 - torch.finfo(
            uniform.dtype).eps / 2)

    monkeypatch.setattr(torch, 'rand', edge_rand)
