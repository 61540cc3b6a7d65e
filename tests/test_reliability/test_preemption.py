# Licensed under the Apache License, Version 2.0.
"""Runs that are asked to stop: a checkpoint, exit status 75, and the same end after a resume."""

import signal
from types import SimpleNamespace

import pytest
from killable import digests, read_log, train
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
