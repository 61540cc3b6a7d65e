# Licensed under the Apache License, Version 2.0.
"""PASCAL VOC at the paper's settings, ResNet-101, for a GPU."""

from protocol import Protocol, Setting
from rows import PARTIAL_LEVELS, method_rows

PROTOCOL = Protocol(
    name='voc',
    title='PASCAL VOC, DeepLabV3+ R101',
    settings={
        **{f'semi-{labels}': Setting(f'{labels} images', labels=labels)
           for labels in (60, 200, 600)},
        **{level: Setting(level, level=level) for level in PARTIAL_LEVELS},
    },
    rows=method_rows('deeplabv3plus_r101_voc', 60, 'deeplabv3plus_r101_voc_semi-92'),
    iterations=40000,
    val_interval=2000,
    mask_dir='SegmentationClassAug',
    train_list='ImageSets/Segmentation/train_aug.txt',
    split_rule=('--min-classes', '3'))
