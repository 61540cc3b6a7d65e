# Licensed under the Apache License, Version 2.0.
import torch
import torch.nn.functional as F

from mmseg_reco.models.utils.vectors import EPS, unit_vectors


def test_unit_vectors_have_length_one_or_zero():
    rows = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    rows[1, 4] *= EPS / 2 / rows[1, 4].norm()
    rows.requires_grad_()
    units = unit_vectors(rows)
    torch.testing.assert_close(units[0], F.normalize(rows[0], dim=-1))
    assert not units[1, 4].any()
    units.sum().backward()
    assert rows.grad.isfinite().all() and not rows.grad[1, 4].any()
