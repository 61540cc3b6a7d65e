# Licensed under the Apache License, Version 2.0.
"""CamVid at full resolution, ResNet-101, for a GPU."""

from dataclasses import replace

from camvid_cpu import PROTOCOL as CPU
from protocol import Ablation
from rows import ablation_rows, method_rows

ROWS = method_rows('deeplabv3plus_r101_camvid', 20, 'deeplabv3plus_r101_cityscapes_semi-20')

PROTOCOL = replace(
    CPU,
    name='camvid-gpu',
    title='CamVid, DeepLabV3+ R101, full resolution',
    settings={name: replace(setting, network={}, semi={})
              for name, setting in CPU.settings.items()},
    rows=ROWS,
    iterations=10000,
    val_interval=1000,
    network={},
    ablation=Ablation('semi-20', 'reco-classmix', ablation_rows(ROWS['reco-classmix'])))
