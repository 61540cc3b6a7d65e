# Licensed under the Apache License, Version 2.0.
from types import SimpleNamespace

import torch
from mmseg.registry import HOOKS, MODELS
from tiny_segmentor import segmentor_config


def test_maps_follow_the_weights_and_stay_the_same():
    torch.manual_seed(0)
    model = MODELS.build(segmentor_config()).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model.extract_feat(images)
        HOOKS.build(dict(type='ChannelsLastHook')).before_run(SimpleNamespace(model=model))
        after = model.extract_feat(images)
    for plain, last in zip(before, after, strict=True):
        assert not plain.is_contiguous(memory_format=torch.channels_last)
        assert last.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(plain, last)
