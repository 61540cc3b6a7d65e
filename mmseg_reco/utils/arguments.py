# Licensed under the Apache License, Version 2.0.
"""Checks of arguments. Each raises a ValueError that names the argument; NaN passes none."""
import math
from typing import Any

import torch.nn as nn


def check_not_negative(name: str, value: float) -> None:
    """Refuse a number below 0."""
    if not value >= 0:
        raise ValueError(f'{name} must be >= 0, got {value!r}')


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above 0."""
    if not value > 0:
        raise ValueError(f'{name} must be > 0, got {value!r}')


def check_count(name: str, value: Any) -> None:
    """Refuse what is not a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be an integer >= 1, got {value!r}')


def check_probability(name: str, value: float) -> None:
    """Refuse a number outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f'{name} is a probability in [0, 1], got {value!r}')


def check_range(name: str, bounds: tuple[float, float], low: float = 0, high: float = math.inf,
                positive: bool = False) -> None:
    """Refuse an interval that is not ordered, leaves [low, high] or, if ``positive``, holds 0."""
    a, b = bounds
    if not low <= a <= b <= high or (positive and a == 0):
        lowest = '0 <' if positive else f'{low:g} <='
        highest = f' <= {high:g}' if high < math.inf else ''
        raise ValueError(f'{name} must be (a, b) with {lowest} a <= b{highest}, got {bounds!r}')


def check_loss(loss: nn.Module) -> None:
    """Refuse a loss with a negative ``loss_weight``, or a ``loss_name`` that is not optimised."""
    kind = type(loss).__name__
    check_not_negative(f'{kind}: loss_weight', loss.loss_weight)
    if 'loss' not in loss.loss_name:
        raise ValueError(f'{kind}: loss_name must contain "loss", or mmengine only logs it and '
                         f'does not optimise it; got {loss.loss_name!r}')
