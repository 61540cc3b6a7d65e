# Licensed under the Apache License, Version 2.0.
"""Cityscapes, halved, at the paper's settings, ResNet-101, for a GPU."""

from protocol import Protocol, Setting
from rows import PARTIAL_LEVELS, method_rows

PROTOCOL = Protocol(
    name='cityscapes',
    title='Cityscapes 1024x512, DeepLabV3+ R101',
    settings={
        **{f'semi-{labels}': Setting(f'{labels} images', labels=labels)
           for labels in (20, 50, 150)},
        **{level: Setting(level, level=level) for level in PARTIAL_LEVELS},
    },
    rows=method_rows('deeplabv3plus_r101_cityscapes', 20,
                     'deeplabv3plus_r101_cityscapes_semi-20'),
    iterations=40000,
    val_interval=2000,
    mask_dir='labels/train',
    train_list='train.txt',
    split_rule=('--min-classes', '12'))
