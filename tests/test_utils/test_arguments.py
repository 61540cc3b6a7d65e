# Licensed under the Apache License, Version 2.0.
import math
import re

import pytest
import torch.nn as nn

from mmseg_reco.utils import (
    check_count,
    check_loss,
    check_not_negative,
    check_positive,
    check_probability,
    check_range,
)


@pytest.mark.parametrize('check, good, bad, words', [
    (check_not_negative, [0, 0.5], [-0.1, math.nan], 'must be >= 0'),
    (check_positive, [1e-9, 3], [0, -1., math.nan], 'must be > 0'),
    (check_count, [1, 256], [0, -3, 2.5, True, '1'], 'must be an integer >= 1'),
    (check_probability, [0, 0.97, 1], [-0.1, 97, math.nan], 'is a probability in [0, 1]'),
])
def test_numbers(check, good, bad, words):
    for value in good:
        check('Loss: weight', value)
    for value in bad:
        with pytest.raises(ValueError, match=re.escape(f'Loss: weight {words}, got {value!r}')):
            check('Loss: weight', value)


@pytest.mark.parametrize('limits, good, bad, words', [
    (dict(), [(0, 0), [0.5, 2]], [(-0.1, 1), (2, 1), (0, math.nan)], '0 <= a <= b'),
    (dict(low=-0.5, high=0.5), [(-0.5, 0.5)], [(-0.6, 0), (0, 0.6)], '-0.5 <= a <= b <= 0.5'),
    (dict(high=1, positive=True), [(0.1, 1)], [(0, 1), (-1, 1), (0.1, 1.1)], '0 < a <= b <= 1'),
])
def test_ranges(limits, good, bad, words):
    for bounds in good:
        check_range('hue', bounds, **limits)
    for bounds in bad:
        message = f'hue must be (a, b) with {words}, got {bounds!r}'
        with pytest.raises(ValueError, match=re.escape(message)):
            check_range('hue', bounds, **limits)


@pytest.mark.parametrize('weight, name, words', [
    (-1, 'loss_a', 'Module: loss_weight must be >= 0, got -1'),
    (1, 'a', 'Module: loss_name must contain "loss", .*; got \'a\''),
])
def test_losses(weight, name, words):
    loss = nn.Module()
    loss.loss_weight, loss.loss_name = 0.5, 'loss_a'
    check_loss(loss)
    loss.loss_weight, loss.loss_name = weight, name
    with pytest.raises(ValueError, match=words):
        check_loss(loss)
