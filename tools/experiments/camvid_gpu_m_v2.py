# Licensed under the Apache License, Version 2.0.
"""CamVid at full resolution, MobileNetV2, for a GPU."""

from dataclasses import replace

from camvid_cpu import PROTOCOL as CPU
from camvid_gpu import PROTOCOL as R101
from protocol import load_config

SLIM = load_config('configs/_base_/models/deeplabv3plus_m-v2-d16.py').model

PROTOCOL = replace(
    R101,
    name='camvid-gpu-m-v2',
    title='CamVid, DeepLabV3+ MobileNetV2, full resolution',
    network={
        'backbone': dict(SLIM.backbone, _delete_=True),
        'decode_head': dict(SLIM.decode_head, _delete_=True),
        **CPU.network,
    })
