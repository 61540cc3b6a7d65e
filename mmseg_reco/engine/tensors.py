# Licensed under the Apache License, Version 2.0.
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def copy_tensors(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Copy many tensors in a few kernels, one for each type, which is what torch does fast."""
    pairs = defaultdict(lambda: ([], []))
    for target, source in zip(targets, sources, strict=True):
        for members, tensor in zip(pairs[target.dtype], (target, source), strict=True):
            members.append(tensor)
    for members in pairs.values():
        torch._foreach_copy_(*members)
