# Licensed under the Apache License, Version 2.0.
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def bash(script, *args, cwd, **environment):
    return subprocess.run(
        ['bash', str(TOOLS / script), *map(str, args)],
        cwd=cwd,
        env=dict(os.environ, CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable, **environment),
        capture_output=True,
        text=True,
        timeout=600,
    )


def free_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return str(sock.getsockname()[1])


def test_two_processes_train_and_test_on_cpu(tiny_config):
    here = tiny_config.parent
    # the deeper stages of the backbone have no gradient here
    args = ('tiny.py', 2, '--work-dir', 'out', '--cfg-options', 'find_unused_parameters=True')
    trained = bash('dist_train.sh', *args, cwd=here, PORT=free_port())
    assert trained.returncode == 0, trained.stderr
    assert 'Iter(train) [4/4]' in trained.stdout
    assert trained.stdout.count('No GPU found') == 1
    checkpoint = torch.load(here / 'out' / 'iter_4.pth', weights_only=True)
    assert not any(name.startswith('module.') for name in checkpoint['state_dict'])

    args = ('tiny.py', 'out/iter_4.pth', 2)
    tested = bash('dist_test.sh', *args, cwd=here, PORT=free_port())
    assert tested.returncode == 0, tested.stderr
    score = checkpoint['message_hub']['runtime_info']['best_score']
    assert f'mIoU: {score:.4f}' in tested.stdout


@pytest.mark.parametrize(
    'script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']
)
def test_missing_arguments_give_the_usage(script, tmp_path):
    done = bash(script, cwd=tmp_path)
    assert done.returncode == 2
    assert 'usage:' in done.stderr and script in done.stderr


@pytest.mark.parametrize(
    ('processes', 'threads'), [('1', os.cpu_count()), ('9999', 1), ('auto', None), ('gpu', None)]
)
def test_torchrun_counts_what_is_no_number(tmp_path, processes, threads):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho "${OMP_NUM_THREADS-none}" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ['env', '-u', 'OMP_NUM_THREADS', f'PYTHON={python}',
         'bash', TOOLS / 'dist_train.sh', 'c.py', processes],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'--nproc_per_node={processes} ' in done.stdout
    if threads is None:
        assert done.stdout.startswith('none ')
    else:
        assert 1 <= int(done.stdout.split()[0]) <= threads


@pytest.mark.parametrize('processes', ['0', '08', '-1', 'two', ''])
@pytest.mark.parametrize('script, before', [
    ('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'c.pth'])])
def test_other_numbers_of_processes_give_the_usage(script, before, processes, tmp_path):
    done = bash(script, *before, processes, cwd=tmp_path)
    assert done.returncode == 2
    first, usage = done.stderr.splitlines()
    assert first.endswith(f"not '{processes}'")
    assert usage.startswith(f'usage: tools/{script} CONFIG')


def test_slurm_starts_one_task_per_gpu(tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    done = bash(
        'slurm_train.sh',
        *('part', 'job', 'a config.py', '--amp'),
        cwd=tmp_path,
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        GPUS='8',
        SRUN_ARGS='--time=10 --exclusive',
    )
    words = done.stdout.splitlines()
    assert {'--partition=part', '--ntasks=8', '--ntasks-per-node=4', '--gres=gpu:4'} <= set(words)
    script = str(TOOLS / 'train.py')
    assert words[-9:] == [
        *('--time=10', '--exclusive', sys.executable, '-u', script),
        *('a config.py', '--amp', '--launcher', 'slurm'),
    ]


def test_slurm_without_a_number_of_gpus_is_refused(tmp_path):
    done = bash('slurm_train.sh', 'part', 'job', 'c.py', cwd=tmp_path, GPUS='all')
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "GPUS is the number of GPUs of the job, not 'all'"


def fake_slurm(folder, statuses):
    """An ``srun`` that notes its arguments and ends with these statuses in turn."""
    (folder / 'statuses').write_text(''.join(f'{status}\n' for status in statuses))
    (folder / 'srun').write_text(
        '#!/bin/bash\necho "$@" >> "$(dirname "$0")/calls"\n'
        'cd "$(dirname "$0")"; read -r status < statuses; sed -i 1d statuses; exit "$status"\n')
    (folder / 'scontrol').write_text('#!/bin/bash\necho "scontrol $@"\n')
    for name in ('srun', 'scontrol'):
        (folder / name).chmod(0o755)
    return dict(PATH=f'{folder}:{os.environ["PATH"]}')


def test_a_preempted_run_is_queued_again_and_resumes(tmp_path):
    done = bash('slurm_train.sh', *('part', 'job', 'c.py', '--amp'), cwd=tmp_path,
                GRACE='60', **fake_slurm(tmp_path, [75, 75, 3]))
    assert done.returncode == 3
    calls = (tmp_path / 'calls').read_text().splitlines()
    assert len(calls) == 3
    assert all('--signal=USR1@60' in call for call in calls)
    assert [call.count('--resume') > 0 for call in calls] == [False, True, True]


def test_a_batch_job_is_requeued_and_resumes(tmp_path):
    slurm = fake_slurm(tmp_path, [75, 0])
    done = bash('slurm_train.sh', 'part', 'job', 'c.py', cwd=tmp_path, SLURM_JOB_ID='7', **slurm)
    assert done.stdout == 'scontrol requeue 7\n' and done.returncode == 0
    done = bash('slurm_train.sh', 'part', 'job', 'c.py', cwd=tmp_path, SLURM_JOB_ID='7',
                SLURM_RESTART_COUNT='1', **slurm)
    assert done.stdout == '' and done.returncode == 0
    calls = (tmp_path / 'calls').read_text().splitlines()
    assert ['--resume' in call for call in calls] == [False, True]
