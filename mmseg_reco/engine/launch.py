# Licensed under the Apache License, Version 2.0.
"""What ``tools/train.py`` and ``tools/test.py`` share: from a config to a running Runner."""

import atexit
import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import RUNNERS

from mmseg_reco.engine.checkpoint import latest_checkpoint
from mmseg_reco.engine.config_check import check_config, check_options
from mmseg_reco.engine.hooks import PreemptionHook

_SYNC_NORMS = ('SyncBN', 'MMSyncBN')
_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def load_config(
    path: str,
    options: dict[str, Any] | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config and apply what the command line says, in mmseg's order of precedence.

    Args:
        path: File of the config.
        options: Of ``--cfg-options``: ``{'optim_wrapper.optimizer.lr': 0.01}``.
        work_dir: Of ``--work-dir``.
        launcher: Of ``--launcher``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A setting is misspelt.
    """
    cfg = Config.fromfile(path)
    cfg.launcher = launcher
    if cfg.get('resume'):  # left by a resumed run, with the checkpoint that it went on from
        _say('resume=True in the config is ignored, and load_from with it: tools/train.py --resume '
             'continues a run.')
        cfg.resume, cfg.load_from = False, None
    if options is not None:
        check_options(options, cfg)
        cfg.merge_from_dict(options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    cfg.setdefault('default_scope', 'mmseg')
    check_config(cfg)
    use_safe_checkpoints(cfg)
    return cfg


def _say(message: str) -> None:
    """Print once, whatever the number of processes; the runner's logger does not exist yet."""
    if os.environ.get('RANK', '0') == '0':
        print(message, flush=True)


def use_safe_checkpoints(cfg: Config) -> None:
    """Save through SafeCheckpointHook wherever the config asks for mmengine's CheckpointHook."""
    cfg.setdefault('default_hooks', {})
    cfg.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    hook = cfg.default_hooks.checkpoint
    if hook is not None and hook['type'] in ('CheckpointHook', CheckpointHook):
        hook['type'] = 'SafeCheckpointHook'


def make_resumable(cfg: Config) -> None:
    """Let a run stop at any iteration and go on exactly, where it trains by iterations.

    ResumableTrainLoop takes the place of mmengine's loop, and PreemptionHook joins the hooks.
    """
    loop = cfg.train_cfg
    if loop.get('type') in ('IterBasedTrainLoop', IterBasedTrainLoop) or (
            'type' not in loop and loop.get('by_epoch') is False):
        loop.pop('by_epoch', None)
        loop['type'] = 'ResumableTrainLoop'
    hooks = cfg.get('custom_hooks') or []
    if not any(hook['type'] in ('PreemptionHook', PreemptionHook) for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type='PreemptionHook')]


def enable_amp(cfg: Config) -> None:
    """Train in mixed precision: fp16 with loss scaling on a GPU, bfloat16 on a CPU.

    Raises:
        ValueError: The config's optimizer wrapper has no mixed-precision form.
    """
    wrapper = cfg.optim_wrapper.setdefault('type', 'OptimWrapper')
    if wrapper in ('AmpOptimWrapper', 'CPUAmpOptimWrapper'):
        return
    if wrapper != 'OptimWrapper':
        raise ValueError(f'--amp works with optim_wrapper type OptimWrapper, but it is {wrapper}.')
    if get_device() == 'cpu':
        cfg.optim_wrapper.update(type='CPUAmpOptimWrapper')
    else:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')


def resume_latest(cfg: Config, explicit: bool) -> None:
    """Continue from the last checkpoint in the work directory, if there is one.

    mmengine would take ``load_from`` for the checkpoint to resume, even where the config means
    pretrained weights by it.

    Args:
        cfg: The config; ``work_dir`` is set.
        explicit: The user named the checkpoint with ``--cfg-options load_from=...``.
    """
    checkpoint = cfg.load_from if explicit else latest_checkpoint(cfg.work_dir)
    if checkpoint is None:
        _say(f'--resume: no checkpoint in {cfg.work_dir} yet, so training starts afresh.')
    else:
        cfg.load_from = checkpoint
        cfg.resume = True


def build_runner(cfg: Config) -> Runner:
    """Fit the config to this machine and build its runner.

    Raises:
        ValueError: The launcher started more processes than there are GPUs, or needs GPUs that
            this machine lacks.
        OSError: The work directory cannot be written to.
    """
    check_work_dir(cfg.work_dir)
    on_cpu = get_device() == 'cpu'
    distributed = cfg.launcher != 'none'
    share_cores(cfg, on_cpu)
    if on_cpu:
        _say('No GPU found: running on CPU.')
        batch_norm_for_cpu(cfg)
        keep_freed_memory()
    if distributed and on_cpu:
        distribute_on_cpu(cfg)
    elif distributed and torch.cuda.is_available():
        check_gpu_count()
    deterministic = not on_cpu and cfg.get('randomness', {}).get('deterministic')
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # without it cuBLAS refuses
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if deterministic:
        # An operation without a deterministic form, as the histogram of mmseg's metric, would end
        # the run: let it warn.
        torch.use_deterministic_algorithms(True, warn_only=True)
    return runner


def check_work_dir(work_dir: str) -> None:
    """Refuse a work directory that takes no file, before hours have been spent on a checkpoint.

    Raises:
        OSError: The directory cannot be made or written to.
    """
    try:
        os.makedirs(work_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise OSError(
            f"The work directory '{work_dir}' cannot be written to ({error.strerror}): choose "
            'another with --work-dir.'
        ) from error


def share_cores(cfg: Config, on_cpu: bool) -> None:
    """Give every process of this machine its share of the cores, for threads and for workers.

    OpenCV's own threads are switched off by mmengine (``env_cfg.mp_cfg``).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    share = max(1, cores // int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
    if on_cpu and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(share)
    for name in _DATALOADERS:
        loader = cfg.get(name)
        if loader and loader.get('num_workers', 0) > share:
            _say(f'{name}: num_workers {loader.num_workers} -> {share}, the cores at hand.')
            loader.num_workers = share


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees: a step's maps are as large as the last one's.

    glibc hands large blocks back to the kernel, which fills new ones with zeros page by page, in
    every step anew. Results stay the same. Nothing happens with another C library, and a user's
    ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_MAX_`` have the last word.
    """
    # Windows has no library of that name.
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if os.name == 'posix' else None
    if mallopt is None:
        return
    for variable, parameter, value in (('MALLOC_TRIM_THRESHOLD_', _M_TRIM_THRESHOLD, -1),
                                       ('MALLOC_MMAP_MAX_', _M_MMAP_MAX, 0)):
        if variable not in os.environ:
            mallopt(parameter, value)


def batch_norm_for_cpu(cfg: Config) -> None:
    """Turn SyncBN, which knows GPUs only, into BN throughout ``cfg.model``."""
    count = 0
    pending: list[Any] = [cfg.model]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if node.get('type') in _SYNC_NORMS:
                node['type'] = 'BN'
                count += 1
            pending.extend(node.values())
        elif isinstance(node, (list, tuple)):
            pending.extend(node)
    if cfg.pop('sync_bn', None) is not None or count:
        _say('SyncBN needs GPUs: the model uses BN instead.')


def distribute_on_cpu(cfg: Config) -> None:
    """Start a gloo process group and have the model wrapped for it.

    mmengine 0.10 selects a CUDA device for every backend, but leaves a process group that is
    already there alone; its default wrapper passes device ids, which CPU modules refuse.

    Raises:
        ValueError: The launcher is not ``pytorch``.
    """
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs GPUs; on CPU start the processes with '
            'tools/dist_train.sh or torchrun, which use --launcher pytorch.'
        )
    dist.init_process_group('gloo')
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.update(cfg.get('model_wrapper_cfg') or {})
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
    # Without SyncBN the processes' statistics differ: validate, and save, their mean.
    hooks = cfg.get('custom_hooks') or []
    if not any(hook['type'] == 'SyncBuffersHook' for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type='SyncBuffersHook')]


def check_gpu_count() -> None:
    """Refuse more processes than GPUs: NCCL's own complaint comes late and is obscure.

    Raises:
        ValueError: This process has no GPU of its own.
    """
    local_rank, gpus = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
    if local_rank >= gpus:
        raise ValueError(
            f'Process {local_rank} of this machine finds {gpus} GPU(s): start at most {gpus} '
            'process(es) here.'
        )


def finish(status: int = 0) -> None:
    """End the process group in order after a run without errors, and with it a launched process.

    Gloo's threads outlive ``destroy_process_group`` where DDP still refers to the group, and drop
    their last tensors now and then while Python is being torn down, which aborts the process
    (pytorch/pytorch#179291). So a launched process runs what is registered for its exit and then
    leaves without that. Without a process group nothing happens.

    Args:
        status (int): Exit status of the process.
    """
    if not dist.is_initialized():
        return
    dist.barrier()
    dist.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
