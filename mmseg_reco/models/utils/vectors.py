# Licensed under the Apache License, Version 2.0.
import torch
from torch import Tensor

# Below this norm a representation counts as zero, without a direction or a gradient.
EPS = 1e-6


def unit_vectors(rows: Tensor) -> Tensor:
    """Scale vectors (..., D) to length one; those shorter than ``EPS`` become zero."""
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return torch.where(norm > EPS, rows / norm.clamp_min(EPS), 0)
