# Licensed under the Apache License, Version 2.0.
"""CamVid on two CPU cores, for 4,000 iterations: the short protocol and exact frequencies."""

from dataclasses import replace

from camvid_cpu import MAIN_ROWS
from camvid_cpu import PROTOCOL as SHORT

# Without it the pseudo-labels of rare classes spread after some 2,500 iterations.
EXACT = {'model.semi_train_cfg.exact_frequencies': True}
SETTINGS = {name: SHORT.settings[name] for name in ('semi-20', 'p0', 'p1')}

PROTOCOL = replace(
    SHORT,
    name='camvid-cpu-long',
    title='CamVid, DeepLabV3+ MobileNetV2, two CPU cores, 4,000 iterations',
    settings={name: replace(short, semi={**short.semi, **EXACT})
              for name, short in SETTINGS.items()},
    rows=MAIN_ROWS,
    iterations=4000,
    ablation=None)
