# Licensed under the Apache License, Version 2.0.
"""A user's config and a few lines more, through the command line."""
import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

FIVE_LINES = """
_base_ = './tiny.py'
custom_imports = dict(imports=['mmseg_reco'])
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model,
             losses=[dict(type='ReCoLoss', num_queries=8, num_negatives=16)])
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(_delete_=True, type='LabeledUnlabeledDataset', dataset=_base_.dataset,
                 labeled='labeled.txt', unlabeled='unlabeled.txt'))
custom_hooks = [dict(type='MeanTeacherHook'), dict(type='CheckDataHook'),
                dict(type='SamplingHook'), dict(type='ClassRelationHook')]
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(save_best='teacher/mIoU', rule='greater'))
"""


@pytest.fixture
def semi_config(tiny_config):
    folder = tiny_config.parent
    (folder / 'labeled.txt').write_text('0\n1\n')
    (folder / 'unlabeled.txt').write_text('2\n3\n4\n')
    (folder / 'val.txt').write_text('5\n')
    tiny_config.write_text(tiny_config.read_text().replace(
        "sampler=dict(type='DefaultSampler', shuffle=False),\n    dataset=dataset)",
        "sampler=dict(type='DefaultSampler', shuffle=False),\n"
        "    dataset=dict(dataset, ann_file='val.txt'))"))
    config = folder / 'semi.py'
    config.write_text(FIVE_LINES)
    return config


def run(*command, cwd, check=True):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300,
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1',
                 PYTHON=sys.executable))
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_train_interrupt_resume_and_test(semi_config):
    here, work_dir = semi_config.parent, semi_config.parent / 'work_dirs' / 'semi'
    first = run(sys.executable, ROOT / 'tools/train.py', 'semi.py', cwd=here)
    assert 'teacher/mIoU' in first.stdout and 'student/mIoU' in first.stdout
    half = torch.load(work_dir / 'iter_4.pth', weights_only=True)

    second = run(sys.executable, ROOT / 'tools/train.py', 'semi.py', '--resume', '--cfg-options',
                 'train_cfg.max_iters=8', cwd=here)
    assert 'Iter(train) [5/8]' in second.stdout and 'Iter(train) [1/8]' not in second.stdout
    whole = torch.load(work_dir / 'iter_8.pth', weights_only=True)
    before, after = ([record['iterations'] for record in saved['class_relation']['records']]
                     for saved in (half, whole))
    assert before == [1, 2, 3, 4] and after == [*before, 5, 6, 7, 8]
    log = [json.loads(line) for line in
           next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    train = [entry for entry in log if 'loss_reco' in entry]
    assert len(train) == 4
    for entry in train:
        assert math.isfinite(entry['loss'])
        assert {'loss_unsup', 'sup.decode.loss_ce', 'hard_query_share', 'classes_present',
                'confident_share', 'pseudo_label_acc'} <= set(entry)

    tested = run(sys.executable, ROOT / 'tools/test.py', 'semi.py', work_dir / 'iter_8.pth',
                 cwd=here)
    trained = re.findall(r'teacher/mIoU: ([\d.]+)', second.stdout)[-1]
    assert re.findall(r'mIoU: ([\d.]+)', tested.stdout)[-1] == trained


def test_teacher_follows_the_student(semi_config):
    """After one step its weights are the student's; then they lag. Statistics are its own."""
    here = semi_config.parent
    run(sys.executable, ROOT / 'tools/train.py', 'semi.py', '--cfg-options',
        'train_cfg.max_iters=2', 'train_cfg.val_interval=9', 'default_hooks.checkpoint.interval=1',
        cwd=here)
    for step, equal in ((1, True), (2, False)):
        state = torch.load(
            here / f'work_dirs/semi/iter_{step}.pth', weights_only=True)['state_dict']
        same = {name: torch.equal(value, state[name.replace('student', 'teacher')])
                for name, value in state.items() if name.startswith('student.')}
        own = {name for name in same if 'running_' in name and 'projector' not in name}
        assert own and not any(same[name] for name in own)
        assert all(same[name] for name in same.keys() - own) == equal


def test_two_processes_on_cpu(semi_config):
    here = semi_config.parent
    # The tiny head leaves the backbone's last layers unused.
    semi_config.write_text(semi_config.read_text() + 'find_unused_parameters = True\n')
    with socket.socket() as sock:  # a port of its own
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    done = run('env', f'PORT={port}', 'bash', ROOT / 'tools/dist_train.sh', 'semi.py', 2,
               '--cfg-options',
               'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
               'default_hooks.checkpoint.interval=2', cwd=here)
    assert 'Iter(train) [2/2]' in done.stdout
    torch.load(here / 'work_dirs/semi/iter_2.pth', weights_only=True)


def test_labelled_images_in_the_validation_list_are_refused_before_training(semi_config):
    here = semi_config.parent
    (here / 'val.txt').write_text('1\n5\n')
    done = run(sys.executable, ROOT / 'tools/train.py', 'semi.py', cwd=here, check=False)
    assert done.returncode != 0 and 'Iter(train)' not in done.stdout
    assert re.search(r'1\.png: in train.labeled and in val', done.stderr)
