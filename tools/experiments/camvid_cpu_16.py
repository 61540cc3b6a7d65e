# Licensed under the Apache License, Version 2.0.
"""CamVid on two CPU cores, the short protocol in batches of 16 images.

A teacher's batch then has eight labelled images, as that of the supervised network in the short
protocol, beside eight unlabelled ones, as in the paper; the supervised network has 16.
"""

from dataclasses import replace

from camvid_cpu import MAIN_ROWS
from camvid_cpu import PROTOCOL as SHORT

PROTOCOL = replace(
    SHORT,
    name='camvid-cpu-16',
    title='CamVid, DeepLabV3+ MobileNetV2, two CPU cores, 16 images a step',
    rows=MAIN_ROWS,
    batch_size=16,
    ablation=None)
