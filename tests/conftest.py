# Licensed under the Apache License, Version 2.0.
import os
import random
import sys
from pathlib import Path

# Results to the bit are those of the CPU; a GPU is for `pytest -m cuda`. Before torch looks for it.
if not any('cuda' in argument for argument in sys.argv):
    os.environ['CUDA_VISIBLE_DEVICES'] = ''

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from mmengine.registry import init_default_scope

import mmseg_reco  # noqa: F401  registers everything

# One thread: the machines that run tests are small and shared. Child processes inherit it.
os.environ.setdefault('OMP_NUM_THREADS', '1')
torch.set_num_threads(1)

# The same examples in every run, as Hypothesis has it where CI is set; a slow machine is no fault.
settings.register_profile(
    'seeded', derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('seeded')


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    """Look modules up where a Runner with ``default_scope = 'mmseg'`` would."""
    init_default_scope('mmseg')


@pytest.fixture(autouse=True)
def seeds() -> None:
    """What a test draws without a seed of its own depends neither on the run nor on other tests."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  mmcv's transforms draw from it
    torch.manual_seed(0)


TINY_CONFIG = """
default_scope = 'mmseg'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[0.0] * 3, std=[255.0] * 3, size=(32, 32),
        pad_val=0, seg_pad_val=255),
    backbone=dict(
        type='MobileNetV2', widen_factor=0.1, out_indices=(1, 2), norm_cfg=norm_cfg),
    decode_head=dict(
        type='FCNHead', in_channels=8, in_index=0, channels=8, num_convs=1, num_classes=3,
        norm_cfg=norm_cfg, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
dataset = dict(
    type='BaseSegDataset', data_root={root!r},
    data_prefix=dict(img_path='images', seg_map_path='masks'),
    img_suffix='.png', seg_map_suffix='.png',
    metainfo=dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]]),
    pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')])
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dataset)
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=8, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4, save_best='mIoU'))
log_processor = dict(by_epoch=False)
"""


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """A stock FCN config that trains in seconds, and six generated 32 x 32 images beside it."""
    generator = np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    for index in range(6):
        mask = np.zeros((32, 32), np.uint8)
        mask[:, 8 + index :] = 1
        mask[20:] = 2
        image = mask[..., None] * 80 + generator.integers(0, 40, (32, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / 'masks' / f'{index}.png'), mask)
        cv2.imwrite(str(tmp_path / 'images' / f'{index}.png'), image)
    config = tmp_path / 'tiny.py'
    config.write_text(TINY_CONFIG.format(root=str(tmp_path)))
    return config
