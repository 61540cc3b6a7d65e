# Licensed under the Apache License, Version 2.0.
"""For hooks that look on: training goes on as if they were not there."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn as nn
from mmengine.runner import Runner


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within this context a model is in eval mode and without gradient; then all is as before.

    The modes of its modules, its ``diagnostics`` and the global random generators come back.
    """
    modes = [(module, module.training) for module in model.modules()]
    diagnostics = getattr(model, 'diagnostics', None)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  transforms draw from it
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
            model.eval()
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, mode in modes:
            module.training = mode
        if diagnostics is not None:
            model.diagnostics = diagnostics


@contextmanager
def harmless(runner: Runner, what: str) -> Iterator[None]:
    """Turn an error into a warning: training is worth more than a picture of it."""
    try:
        yield
    except Exception as error:
        runner.logger.warning(f'{what}, training goes on: {type(error).__name__}: {error}')
