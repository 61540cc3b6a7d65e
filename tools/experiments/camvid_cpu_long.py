# Licensed under the Apache License, Version 2.0.
"""CamVid on two CPU cores, as in the short protocol, for 4,000 iterations."""

from dataclasses import replace

from camvid_cpu import PROTOCOL as SHORT

ROWS = ('supervised', 'classmix', 'reco-classmix')

PROTOCOL = replace(
    SHORT,
    name='camvid-cpu-long',
    title='CamVid, DeepLabV3+ MobileNetV2, two CPU cores, 4,000 iterations',
    settings={'semi-20': SHORT.settings['semi-20']},
    rows={name: SHORT.rows[name] for name in ROWS},
    iterations=4000,
    ablation=None)
