# Licensed under the Apache License, Version 2.0.
"""SUN RGB-D at the paper's settings, ResNet-101, for a GPU."""

from protocol import Protocol, Setting
from rows import method_rows

PROTOCOL = Protocol(
    name='sunrgbd',
    title='SUN RGB-D, DeepLabV3+ R101',
    settings={f'semi-{labels}': Setting(f'{labels} images', labels=labels)
              for labels in (50, 150, 500)},
    rows=method_rows('deeplabv3plus_r101_sunrgbd', 50, 'deeplabv3plus_r101_voc_semi-92',
                     partial=False),
    iterations=40000,
    val_interval=2000,
    mask_dir='labels/train',
    train_list='train.txt',
    split_rule=('--strategy', 'per-class', '--reduce-zero-label'))
