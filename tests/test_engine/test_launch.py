# Licensed under the Apache License, Version 2.0.
import os
import platform
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop

from mmseg_reco.engine import launch


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 1}, raising=False)
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_work_dir_comes_from_command_line_then_config_then_name(tiny_config):
    path, options = str(tiny_config), dict(work_dir='b')
    assert launch.load_config(path).work_dir == os.path.join('work_dirs', 'tiny')
    assert launch.load_config(path, options).work_dir == 'b'
    assert launch.load_config(path, options, work_dir='a').work_dir == 'a'


@pytest.mark.parametrize(
    ('hooks', 'expected'),
    [
        (None, dict(type='SafeCheckpointHook', interval=1)),  # as of Runner's own
        (dict(logger=dict(type='LoggerHook')), dict(type='SafeCheckpointHook', interval=1)),
        (
            dict(checkpoint=dict(type='CheckpointHook', interval=5)),
            dict(type='SafeCheckpointHook', interval=5),
        ),
        (dict(checkpoint=dict(type=CheckpointHook)), dict(type='SafeCheckpointHook')),
        (dict(checkpoint=dict(type='MyHook')), dict(type='MyHook')),
        (dict(checkpoint=None), None),
    ],
)
def test_checkpoint_hook_becomes_safe(hooks, expected):
    cfg = Config({} if hooks is None else dict(default_hooks=hooks))
    launch.use_safe_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == expected


@pytest.mark.parametrize(
    ('loop', 'expected'),
    [
        (dict(type='IterBasedTrainLoop', max_iters=3), 'ResumableTrainLoop'),
        (dict(type=IterBasedTrainLoop, max_iters=3), 'ResumableTrainLoop'),
        (dict(by_epoch=False, max_iters=3), 'ResumableTrainLoop'),
        (dict(type='EpochBasedTrainLoop', max_epochs=3), 'EpochBasedTrainLoop'),
        (dict(type='MyLoop'), 'MyLoop'),
    ],
)
def test_runs_become_resumable(loop, expected):
    cfg = Config(dict(train_cfg=loop))
    for _ in range(2):  # asking twice changes nothing
        launch.make_resumable(cfg)
        assert cfg.train_cfg.type == expected and 'by_epoch' not in cfg.train_cfg
        assert cfg.custom_hooks == [dict(type='PreemptionHook')]
    own = [dict(type='A'), dict(type='PreemptionHook', interval=3)]
    cfg = Config(dict(train_cfg=loop, custom_hooks=own))
    launch.make_resumable(cfg)
    assert cfg.custom_hooks == own


def test_sync_bn_becomes_bn_everywhere(capsys):
    cfg = Config(
        dict(
            sync_bn='torch',
            model=dict(
                backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)),
                heads=[dict(norm_cfg=dict(type='MMSyncBN')), dict(norm_cfg=dict(type='GN'))],
            ),
        )
    )
    launch.batch_norm_for_cpu(cfg)
    assert cfg.model.backbone.norm_cfg == dict(type='BN', requires_grad=True)
    assert [head.norm_cfg.type for head in cfg.model.heads] == ['BN', 'GN']
    assert 'sync_bn' not in cfg
    assert 'SyncBN needs GPUs' in capsys.readouterr().out
    launch.batch_norm_for_cpu(cfg)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(('local_world', 'workers', 'threads'), [(1, 2, 2), (2, 1, 1), (8, 1, 1)])
def test_cores_are_shared(two_cores, monkeypatch, local_world, workers, threads):
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(local_world))
    cfg = Config(
        dict(
            train_dataloader=dict(num_workers=4),
            val_dataloader=dict(num_workers=0),
            test_dataloader=None,
        )
    )
    launch.share_cores(cfg, on_cpu=True)
    assert cfg.train_dataloader.num_workers == workers
    assert cfg.val_dataloader.num_workers == 0
    assert torch.get_num_threads() == threads


def test_the_users_thread_count_is_kept(two_cores, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    torch.set_num_threads(1)
    launch.share_cores(Config(), on_cpu=True)
    assert torch.get_num_threads() == 1


FAULTS = """
import resource, torch
from mmseg_reco.engine import launch
{call}
def map_of_40_mb():
    torch.empty(10_000_000).fill_(1)
for _ in range(3):
    map_of_40_mb()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    map_of_40_mb()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
@pytest.mark.parametrize(('call', 'settings', 'kept'), [
    ('', {}, False),
    ('launch.keep_freed_memory()', {}, True),
    ('launch.keep_freed_memory()', dict(MALLOC_MMAP_MAX_='65536', MALLOC_TRIM_THRESHOLD_='131072'),
     False)])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(call, settings, kept):
    """Ten maps of 40 MB are 97,660 pages of 4 KiB that the kernel has to give, or 190 huge ones."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith('MALLOC_')}
    result = subprocess.run([sys.executable, '-c', FAULTS.format(call=call)], text=True,
                            env={**variables, **settings}, capture_output=True, check=True)
    assert (int(result.stdout) < 100) == kept


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_run_on_a_cpu_keeps_freed_memory(monkeypatch, tmp_path, device):
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    monkeypatch.setattr(launch.Runner, 'from_cfg', lambda cfg: None)
    calls = []
    monkeypatch.setattr(launch, 'keep_freed_memory', lambda: calls.append(device))
    launch.build_runner(Config(dict(work_dir=str(tmp_path), launcher='none', model={})))
    assert calls == ['cpu'] * (device == 'cpu')


def test_wrapper_for_cpu_keeps_the_users_settings(monkeypatch):
    backends = []
    monkeypatch.setattr(launch.dist, 'init_process_group', backends.append)
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True))
    launch.distribute_on_cpu(cfg)
    assert backends == ['gloo']
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=True,
        device_ids=None,
    )
    assert cfg.custom_hooks == [dict(type='SyncBuffersHook')]
    own = dict(type='MyWrapper', broadcast_buffers=True, static_graph=True, device_ids=[0])
    hooks = [dict(type='A'), dict(type='SyncBuffersHook')]
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=own, custom_hooks=hooks))
    launch.distribute_on_cpu(cfg)
    assert cfg.custom_hooks == hooks
    assert cfg.model_wrapper_cfg == dict(own, find_unused_parameters=False, device_ids=None)


def test_slurm_on_cpu_is_refused():
    with pytest.raises(ValueError, match='dist_train.sh'):
        launch.distribute_on_cpu(Config(dict(launcher='slurm')))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setenv('LOCAL_RANK', '0')
    launch.check_gpu_count()
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(ValueError, match=r'finds 1 GPU\(s\): start at most 1'):
        launch.check_gpu_count()


@pytest.mark.parametrize('device, wrapper', [
    ('cuda', dict(type='AmpOptimWrapper', loss_scale='dynamic')),
    ('cpu', dict(type='CPUAmpOptimWrapper'))])
def test_amp(monkeypatch, device, wrapper):
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'))))
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    for _ in range(2):  # asking twice changes nothing
        launch.enable_amp(cfg)
        assert cfg.optim_wrapper == dict(wrapper, optimizer=dict(type='SGD'))
    cfg.optim_wrapper.type = 'OptimWrapperDict'
    with pytest.raises(ValueError, match='OptimWrapperDict'):
        launch.enable_amp(cfg)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_deterministic_mode_on_a_gpu_warns_of_what_it_cannot_do(monkeypatch, tmp_path, device):
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)

    def from_cfg(cfg):  # as mmengine does
        torch.use_deterministic_algorithms(True)
        return os.environ.get('CUBLAS_WORKSPACE_CONFIG')

    monkeypatch.setattr(launch.Runner, 'from_cfg', from_cfg)
    cfg = Config(dict(work_dir=str(tmp_path), launcher='none', model={},
                      randomness=dict(deterministic=True)))
    try:
        assert launch.build_runner(cfg) == (':4096:8' if device == 'cuda' else None)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == (device == 'cuda')
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop('CUBLAS_WORKSPACE_CONFIG', None)


def test_resume_prefers_the_work_dir_to_pretrained_weights(tmp_path, capsys):
    cfg = Config(dict(work_dir=str(tmp_path), load_from='pretrained.pth'))
    launch.resume_latest(cfg, explicit=False)
    assert cfg.load_from == 'pretrained.pth' and not cfg.get('resume')
    assert 'starts afresh' in capsys.readouterr().out

    (tmp_path / 'iter_4.pth').touch()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    launch.resume_latest(cfg, explicit=False)
    assert cfg.load_from == str(tmp_path / 'iter_4.pth') and cfg.resume

    cfg = Config(dict(work_dir=str(tmp_path), load_from='chosen.pth'))
    launch.resume_latest(cfg, explicit=True)
    assert cfg.load_from == 'chosen.pth' and cfg.resume


def test_the_config_that_a_resumed_run_leaves_resumes_on_request_only(tmp_path, capsys):
    left = tmp_path / 'left.py'
    left.write_text("resume = True\nload_from = 'iter_4.pth'\nmodel = dict()\n")
    cfg = launch.load_config(str(left), work_dir=str(tmp_path / 'new'))
    assert not cfg.resume and cfg.load_from is None
    assert 'resume=True in the config is ignored' in capsys.readouterr().out
    launch.resume_latest(cfg, explicit=False)
    assert not cfg.resume and 'starts afresh' in capsys.readouterr().out
    options = dict(resume=True, load_from='chosen.pth')
    cfg = launch.load_config(str(left), options)
    assert cfg.resume and cfg.load_from == 'chosen.pth'


def test_a_launched_process_leaves_without_tearing_python_down(tmp_path):
    """Exit functions run; nothing else does after ``finish``."""
    script = tmp_path / 'run.py'
    script.write_text(
        'import atexit, sys\n'
        'import torch.distributed as dist\n'
        'from mmseg_reco.engine.launch import finish\n'
        'atexit.register(print, "at exit")\n'
        'if len(sys.argv) > 1:\n'
        '    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0,\n'
        '                            world_size=1)\n'
        'try:\n'
        '    finish(75)\n'
        'finally:\n'
        '    print("went on")\n')
    done = [subprocess.run([sys.executable, script, *args], capture_output=True, text=True)
            for args in ([tmp_path / 'store'], [])]
    assert [run.returncode for run in done] == [75, 0], done[0].stderr
    # the onedl forks have more to say
    said = [[line for line in run.stdout.splitlines() if 'OneDL' not in line] for run in done]
    assert said == [['at exit'], ['went on', 'at exit']]
