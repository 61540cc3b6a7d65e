# Licensed under the Apache License, Version 2.0.
"""CamVid at full resolution, ResNet-50, for a GPU."""

from dataclasses import replace

from camvid_gpu import PROTOCOL as R101

PROTOCOL = replace(
    R101,
    name='camvid-gpu-r50',
    title='CamVid, DeepLabV3+ R50, full resolution',
    network={
        'backbone.depth': 50,
        'backbone.init_cfg.checkpoint':
            'https://download.pytorch.org/models/resnet50-0676ba61.pth',
    })
