# Licensed under the Apache License, Version 2.0.
import pytest
import torch

from mmseg_reco.engine.tensors import copy_tensors


def test_tensors_of_several_types_are_copied_in_place():
    generator = torch.Generator().manual_seed(0)
    kinds = (torch.float32, torch.int64, torch.float32, torch.bool, torch.float16)
    sources = [torch.randint(0, 2, (2, size), generator=generator).to(kind)
               for size, kind in enumerate(kinds)]
    targets = [torch.full_like(source, 7) for source in sources]
    places = [target.data_ptr() for target in targets]
    copy_tensors(iter(targets), iter(sources))
    assert all(map(torch.equal, targets, sources))
    assert [target.data_ptr() for target in targets] == places
    copy_tensors([], [])
    with pytest.raises(ValueError):
        copy_tensors(targets, sources[:1])
