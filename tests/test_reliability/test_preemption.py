# Licensed under the Apache License, Version 2.0.
"""Runs that are asked to stop: a checkpoint, exit status 75, and the same end after a resume."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from gloo import run_ranks
from killable import digests, read_log, train
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from test_end_to_end import semi_config  # noqa: F401  a fixture
from test_exact_resume import LAST, files, method, stock  # noqa: F401  fixtures

from mmseg_reco.engine.hooks import EXIT_PREEMPTED, PreemptionHook

SEED = {'randomness.seed': 5}


def parts(path):
    return {name: digest for name, digest in digests(path).items()
            if name in ('state_dict', 'optimizer', 'param_schedulers', 'sampling')}


def test_stops_in_order_and_goes_on(method, tmp_path):  # noqa: F811
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    assert train(method, whole, SEED) == [0], read_log(whole)

    codes = train(method, run, SEED, place='iteration:4', signals=(signal.SIGTERM,))
    assert codes == [EXIT_PREEMPTED], read_log(run)
    log = read_log(run)
    assert 'SIGTERM: stopping after this iteration' in log
    assert 'Stopped after 5 iterations' in log and 'Iter(train) [5/8]' in log
    assert 'Iter(train) [6/8]' not in log
    assert 'iter_5.pth' in files(run)  # the schedule has 3, 6 and 8

    # this time in a validation, which is broken off; before, 8 has been saved by the schedule
    codes = train(method, run, SEED, resume=True, place='validation:8', signals=(signal.SIGUSR1,))
    assert codes == [EXIT_PREEMPTED], read_log(run)
    assert train(method, run, SEED, resume=True) == [0], read_log(run)
    assert parts(run / f'iter_{LAST}.pth') == parts(whole / f'iter_{LAST}.pth')
    assert files(run) == files(whole)


def test_accumulated_gradients_are_not_thrown_away():
    """A run stops where they have become an update."""
    hook, runner = PreemptionHook(), SimpleNamespace(
        optim_wrapper=SimpleNamespace(_accumulative_counts=4))
    hook.signal = signal.SIGTERM
    assert [done for done in range(1, 9) if hook._agreed(runner, done, done)] == [4, 8]


def test_ranks_leave_a_validation_together():
    """They have 5 and 3 batches, and exchange a number after each that both have."""

    def validate(rank):
        batches = (5, 3)[rank]
        hook, runner = PreemptionHook(interval=1), SimpleNamespace(
            optim_wrapper=None, hooks=[], iter=4, val_dataloader=range(batches),
            val_loop=None, train_loop=None, train_dataloader=SimpleNamespace(worker_init_fn=None),
            logger=SimpleNamespace(warning=lambda text: None))
        hook.before_train(runner)
        done = []
        for stop_at in (None, 2):
            hook.before_val_epoch(runner)
            try:
                for index in range(batches):
                    done.append(index)
                    if rank == 1 and index == stop_at:
                        hook.signal = signal.SIGTERM
                    hook.after_val_iter(runner, index)
                total = torch.tensor(batches)  # of the metric, as the evaluator adds it up
                dist.all_reduce(total)
                done.append(total.item())
            except SystemExit as stop:
                done.append(stop.code)
        hook.after_train(runner)
        return done

    first, second = run_ranks(validate)
    assert first == [0, 1, 2, 3, 4, 8, 0, 1, 2, EXIT_PREEMPTED]
    assert second == [0, 1, 2, 8, 0, 1, 2, EXIT_PREEMPTED]


def test_a_loop_over_epochs_is_left_as_it_is(tmp_path):
    """A signal in the middle of an epoch goes where it went; no checkpoint of half an epoch."""

    class Line(BaseModel):

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x, mode):
            return dict(loss=self.layer(torch.stack(x)).square().mean())

    class Signal(Hook):

        def after_train_iter(self, runner, **kwargs):
            if runner.iter + 1 == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

    seen = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        Runner(
            Line(), str(tmp_path),
            train_dataloader=dict(batch_size=1, num_workers=0,
                                  dataset=[dict(x=torch.ones(1))] * 2,
                                  sampler=dict(type='DefaultSampler', shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', interval=1)),
            custom_hooks=[dict(type='PreemptionHook'), Signal()], default_scope='mmseg',
            experiment_name='epochs', randomness=dict(seed=0)).train()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert seen == [signal.SIGUSR1]
    metas = {path.name: torch.load(path, weights_only=True)['meta']
             for path in tmp_path.glob('*.pth')}
    assert {name: (meta['epoch'], meta['iter']) for name, meta in metas.items()} == {
        'epoch_1.pth': (1, 2), 'epoch_2.pth': (2, 4)}


@pytest.mark.parametrize('signals', [(signal.SIGINT,), (signal.SIGTERM, signal.SIGUSR1)])
def test_workers_outlive_signals_to_the_group(stock, tmp_path, signals):  # noqa: F811
    """Ctrl-C in a terminal, and torchrun, send a signal to all processes of a group."""
    run = tmp_path / 'run'
    workers = {'train_dataloader.num_workers': 2, 'val_dataloader.num_workers': 1, **SEED}
    codes = train(stock, run, workers, place='iteration:1', signals=signals)
    assert codes == [EXIT_PREEMPTED], read_log(run)
    assert files(run) == ['iter_2.pth'] and 'Traceback' not in read_log(run)


def test_a_second_ctrl_c_quits_at_once(stock, tmp_path):  # noqa: F811
    run = tmp_path / 'run'
    codes = train(stock, run, SEED, place='iteration:1', signals=(signal.SIGINT, signal.SIGINT))
    assert codes == [1] and 'KeyboardInterrupt' in read_log(run)
    assert files(run) == []


def test_two_processes_stop_at_the_same_iteration(stock, tmp_path):  # noqa: F811
    """Rank 1 alone gets the signal, in iteration 2; they meet after 4."""
    run, whole = tmp_path / 'run', tmp_path / 'whole'
    options = {'custom_hooks': [dict(type='PreemptionHook', interval=2)], **SEED}
    codes = train(stock, run, options, place='iteration:2@1', signals=(signal.SIGUSR1,), world=2)
    assert codes == [EXIT_PREEMPTED] * 2, read_log(run) + read_log(run, 1)
    assert 'SIGUSR1' not in read_log(run) and 'SIGUSR1' in read_log(run, 1)
    assert 'Stopped after 4 iterations' in read_log(run)
    assert train(stock, run, options, resume=True, world=2) == [0, 0], read_log(run)
    assert train(stock, whole, options, world=2) == [0, 0], read_log(whole)
    assert parts(run / f'iter_{LAST}.pth') == parts(whole / f'iter_{LAST}.pth')
