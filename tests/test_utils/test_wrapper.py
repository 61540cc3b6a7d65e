# Licensed under the Apache License, Version 2.0.
import torch.nn as nn
from mmengine.model import MMDistributedDataParallel

from mmseg_reco.utils import unwrap


def test_only_wrappers_are_taken_off():
    model = nn.Linear(1, 1)
    model.module = nn.Linear(1, 1)  # of this name, but no wrapper
    assert unwrap(model) is model
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Linear(1, 1)
    assert unwrap(wrapped) is wrapped.module
