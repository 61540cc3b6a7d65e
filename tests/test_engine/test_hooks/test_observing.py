# Licensed under the Apache License, Version 2.0.
"""Hooks that look on leave training as it was."""

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn

from mmseg_reco.engine.hooks.observing import harmless, undisturbed


def test_generators_are_left_as_they_were():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    model = nn.Linear(1, 1)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    with pytest.raises(KeyError), undisturbed(model):
        draw()
        raise KeyError
    assert draw() == expected


def test_modes_gradients_and_diagnostics_come_back():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1).eval())
    model.diagnostics = dict(mark=torch.ones(1))
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.zeros(1, 2)).requires_grad
        model.diagnostics = dict()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled() and list(model.diagnostics) == ['mark']


def test_an_error_becomes_a_warning(caplog):
    with harmless(SimpleNamespace(logger=logging.getLogger('hook')), 'Hook could not draw'):
        raise OSError('disk full')
    assert 'Hook could not draw, training goes on: OSError: disk full' in caplog.text
