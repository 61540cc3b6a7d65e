# Licensed under the Apache License, Version 2.0.
"""Trainings in processes of their own, which kill themselves where they are told to.

A server process imports mmseg once and forks the trainings, so that starting one takes no time.
"""

import contextlib
import gc
import hashlib
import multiprocessing
import os
import resource
import signal
import socket
import sys
from multiprocessing.connection import wait
from pathlib import Path
from unittest import mock

import numpy as np
import torch

_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload(['mmseg_reco.engine.launch', 'mmseg.apis', 'torch._inductor'])

#: What differs between two runs that do the same: times, and names of places.
_OWN = {'time', 'data_time', 'eta', 'last_ckpt', 'best_ckpt', 'keep_ckpt_ids', 'cfg',
        'experiment_name'}


def kill_at(place: str, signals: tuple = ()) -> None:
    """Arrange that this process is killed at a place; ``signals`` go to its group instead.

    Places: ``iteration:N`` in the middle of it, ``validation:N`` in the middle of the one after
    iteration N; and of the writing of a file, ``half:NAME``, ``written:NAME`` before it is renamed,
    ``renamed:NAME``, ``removing:NAME``. At ``full:NAME`` nothing is killed, but the system refuses
    to write the second half of the file, as a full disk does. With ``@R`` behind, in rank R only.
    """
    from mmseg_reco.engine.checkpoint import AtomicLocalBackend
    from mmseg_reco.engine.runner import ResumableTrainLoop

    place, _, only = place.partition('@')
    if only and only != os.environ['RANK']:
        return
    kind, _, name = place.partition(':')
    own = dict(fsync=os.fsync, replace=os.replace, remove=AtomicLocalBackend.remove,
               put=AtomicLocalBackend.put)
    writing = []

    def act() -> None:
        if not signals:
            os.kill(os.getpid(), signal.SIGKILL)
        group = os.getpgrp()
        for number in signals:
            sender = os.fork()  # workers take a signal of their parent for an order of its own
            if sender == 0:
                os.setsid()
                os.killpg(group, number)
                os._exit(0)
            os.waitpid(sender, 0)

    def put(self, obj, filepath):
        writing[:] = [Path(filepath).name]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if writing == [name] and kind == 'full':
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(obj) // 2, limits[1]))
        try:
            own['put'](self, obj, filepath)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def fsync(descriptor):
        if writing == [name] and kind == 'half':
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            act()
        own['fsync'](descriptor)

    def replace(source, target):
        if writing == [name] and kind == 'written':
            act()
        own['replace'](source, target)
        if writing == [name] and kind == 'renamed':
            act()

    def remove(self, filepath):
        if kind == 'removing' and Path(filepath).name == name:
            act()
        own['remove'](self, filepath)

    AtomicLocalBackend.put, AtomicLocalBackend.remove = put, remove
    os.fsync, os.replace = fsync, replace

    if kind in ('iteration', 'validation'):
        from mmengine.hooks import RuntimeInfoHook
        stage = dict(iteration='before_train_iter', validation='after_val_iter')[kind]
        stock = getattr(RuntimeInfoHook, stage)

        def hooked(self, runner, *args, **kwargs):
            if isinstance(runner.train_loop, ResumableTrainLoop) and runner.iter == int(name):
                act()
            return stock(self, runner, *args, **kwargs)

        setattr(RuntimeInfoHook, stage, hooked)


def _spend_no_time() -> None:
    """Leave out what is slow and of no interest here."""
    import mmengine.config.config
    import mmengine.runner.runner

    from mmseg_reco.engine.hooks.history_hook import HistoryHook

    gc.freeze()  # every dataset collects garbage, among all that has been imported
    mmengine.config.config.FormatCode = lambda text, **kwargs: (text, True)
    mmengine.runner.runner.collect_env = dict
    HistoryHook._draw = lambda self, runner: None


def _train(config: str, work_dir: str, options: dict, resume: bool, place: str | None,
           signals: tuple, rank: int, world: int, port: int) -> None:
    os.setsid()
    log = open(Path(work_dir).with_suffix(f'.{rank}.log'), 'a')
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    torch.set_num_threads(1)
    np.random.seed()  # noqa: NPY002  a fork would draw the seed that every other fork draws
    _spend_no_time()
    torch.use_deterministic_algorithms(True)
    from mmseg_reco.engine import launch
    from mmseg_reco.engine.checkpoint import safe_checkpoint_loading

    os.chdir(Path(config).parent)
    if world > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE='1',
            MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    cfg = launch.load_config(config, options, work_dir, 'pytorch' if world > 1 else 'none')
    launch.make_resumable(cfg)
    if resume:
        launch.resume_latest(cfg, explicit=False)
    if place is not None:
        kill_at(place, signals)
    try:
        with safe_checkpoint_loading():
            launch.build_runner(cfg).train()
        launch.finish()
    except SystemExit as stop:
        launch.finish(stop.code)
        raise
    finally:
        log.flush()


def train(config: Path, work_dir: Path, options: dict | None = None, resume: bool = False,
          place: str | None = None, signals: tuple = (), world: int = 1) -> list[int]:
    """Train in ``world`` processes.

    Returns:
        list[int]: Their exit codes, a negative one being the number of the signal.
    """
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    processes = [_context.Process(target=_train, args=(
        str(config), str(work_dir), options or {}, resume, place, signals, rank, world, port))
        for rank in range(world)]
    # A GPU has no deterministic form of some operators. The server, which the first start starts,
    # has to be without: mmengine chooses the device while it is imported.
    with mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=''):
        for process in processes:
            process.start()
    try:
        wait([process.sentinel for process in processes], 300)
        for process in processes:  # whoever starts processes ends the others when one dies
            process.join(0 if any(p.exitcode for p in processes) and not signals else 60)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    return [process.exitcode for process in processes]


def digests(checkpoint: Path) -> dict[str, str]:
    """A digest of every part of a checkpoint, but for what depends on time and place."""
    loaded = torch.load(checkpoint, weights_only=True)
    del loaded['meta']
    parts = {}

    def feed(value, digest) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(str((value.dtype, tuple(value.shape))).encode())
            digest.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                if str(key).split('/')[-1] not in _OWN:
                    digest.update(str(key).encode())
                    feed(value[key], digest)
        elif isinstance(value, (list, tuple)):
            for item in value:
                feed(item, digest)
        else:
            digest.update(repr(value).encode())

    for name, part in loaded.items():
        digest = hashlib.sha256()
        feed(part, digest)
        parts[name] = digest.hexdigest()
    return parts


def read_log(work_dir: Path, rank: int = 0) -> str:
    """What a rank has printed."""
    with contextlib.suppress(FileNotFoundError):
        return Path(work_dir).with_suffix(f'.{rank}.log').read_text()
    return ''
