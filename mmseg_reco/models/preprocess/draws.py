# Licensed under the Apache License, Version 2.0.
"""Random parameters of an augmentation, drawn on the host.

Host numbers decide which image is touched and how, so nothing is ever read back from the device,
an image that is not chosen costs nothing, and the same seed gives the same augmentation on every
device. A generator, where one is given, must be a CPU generator; else PyTorch's default CPU
generator is used (``torch.manual_seed``).
"""

import torch
from torch import Generator


def uniforms(images: int, numbers: int, generator: Generator | None) -> list[list[float]]:
    """``numbers`` draws from [0, 1) for each of ``images`` images."""
    return torch.rand(images, numbers, generator=generator).tolist()


def between(draw: float, bounds: tuple[float, float]) -> float:
    """Stretch a draw from [0, 1) over an interval."""
    return bounds[0] + (bounds[1] - bounds[0]) * draw
