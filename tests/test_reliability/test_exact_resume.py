# Licensed under the Apache License, Version 2.0.
"""Runs that are killed and resumed end as a run that never was."""

import signal

import pytest
import torch
from killable import digests, read_log, train
from test_end_to_end import semi_config  # noqa: F401  a fixture

KILLED = -signal.SIGKILL
LAST = 8

# Random transforms that draw from NumPy and from Python, a strong view made of tensors, and
# intervals that do not meet: checkpoints after 3, 6 and 8 iterations, validations and statistics
# after 4 and 8.
DATASET = """
dataset = dict(_base_.dataset, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='RandomRescaleCrop', crop_size=(32, 32)), dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')])
"""
SETTINGS = """
train_cfg = dict(max_iters=8, val_interval=4)
default_hooks['checkpoint'].update(interval=3, max_keep_ckpts=1)
find_unused_parameters = True
"""
# The teacher begins to label, and to keep BN statistics of its own, in the fifth iteration.
BURN_IN = """
model['semi_train_cfg'] = dict(burn_in=4, class_frequencies='labeled', exact_frequencies=True)
"""


@pytest.fixture
def method(semi_config):  # noqa: F811
    """Student and teacher, with their own sampler."""
    base, rest = semi_config.read_text().split('custom_imports', 1)
    rest = rest.replace('dataset=_base_.dataset', 'dataset=dataset')
    rest = rest.replace("type='SamplingHook'", "type='SamplingHook', interval=4")
    semi_config.write_text(base + DATASET + 'custom_imports' + rest + SETTINGS + BURN_IN)
    return semi_config


@pytest.fixture
def stock(tiny_config):
    """A stock segmentor with a stock sampler."""
    config = tiny_config.with_name('stock.py')
    config.write_text("_base_ = './tiny.py'\n" + DATASET + 'default_hooks = _base_.default_hooks\n'
                      + 'train_dataloader = dict(dataset=dataset)\n' + SETTINGS)
    return config


def files(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


def check(config, runs, places, options=None, world=1):
    """Kill a run at each place in turn, resume it, and compare it with one that was not.

    A list of places kills one run after the other resumed.
    """
    options = {'randomness.seed': 5, 'randomness.deterministic': True, **(options or {})}
    whole = runs / 'whole'
    assert train(config, whole, options, world=world) == [0] * world, read_log(whole)
    expected = digests(whole / f'iter_{LAST}.pth')
    assert {'state_dict', 'optimizer', 'param_schedulers', 'message_hub'} <= set(expected)
    for place in places:
        stations = [place] if isinstance(place, str) else place
        run = runs / '_'.join(stations).replace(':', '_')
        for number, station in enumerate(stations):
            codes = train(config, run, options, resume=number > 0, place=station, world=world)
            # of several processes one may die of the death of another
            assert KILLED in codes and 0 not in codes, read_log(run)
        assert train(config, run, options, resume=True, world=world) == [0] * world, read_log(run)
        assert digests(run / f'iter_{LAST}.pth') == expected, place
        assert files(run) == files(whole)
        assert not list(run.glob('.*.partial'))
    print(f'{len(places)} runs killed, of {world} process(es): all equal')


def test_killed_anywhere(method, tmp_path):
    """With workers: without, loading would seed the generators of the main process as well."""
    check(method, tmp_path / 'runs',
          ['iteration:4', 'validation:4', 'half:iter_6.pth', ['renamed:iter_3.pth', 'iteration:7']],
          {'train_dataloader.num_workers': 1})


def test_stock_segmentor_with_and_without_workers(stock, tmp_path):
    check(stock, tmp_path / 'runs', ['iteration:5'])
    # ... and it does not matter who loads the images
    other = tmp_path / 'workers'
    train(stock, other, {
        'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True,
        'randomness.seed': 5, 'randomness.deterministic': True})
    assert digests(other / 'iter_8.pth') == digests(tmp_path / 'runs/whole/iter_8.pth')


def test_two_processes(stock, tmp_path):
    """Without a teacher, whose update averages them, every rank has BN statistics of its own."""
    check(stock, tmp_path / 'runs', ['iteration:7'],
          {'default_hooks.checkpoint.max_keep_ckpts': 2}, world=2)
    checkpoint = torch.load(tmp_path / 'runs/whole/iter_6.pth', weights_only=True)
    assert any(name.endswith('running_mean') for name in checkpoint['buffers_of_ranks'][1])


def test_a_validation_that_was_killed_is_made_up_for(stock, tmp_path):
    """The checkpoint of the same iteration is written before it."""
    run = tmp_path / 'run'
    options = {'train_cfg.max_iters': 4, 'default_hooks.checkpoint.interval': 4}
    assert train(stock, run, options, place='validation:4') == [KILLED], read_log(run)
    assert files(run) == ['iter_4.pth']
    assert train(stock, run, options, resume=True) == [0], read_log(run)
    assert files(run) == ['best_mIoU_iter_4.pth', 'iter_4.pth']
    train(stock, run, options, resume=True)  # and only once
    assert read_log(run).count('Iter(val) [1/6]') == 1


def test_a_seed_that_the_run_drew_itself(stock, tmp_path):
    run, whole = tmp_path / 'run', tmp_path / 'whole'
    assert train(stock, run, place='iteration:5') == [KILLED], read_log(run)
    seed = torch.load(run / 'iter_4.pth', weights_only=True)['meta']['seed']
    assert train(stock, run, resume=True) == [0], read_log(run)
    assert train(stock, whole, {'randomness.seed': seed}) == [0], read_log(whole)
    assert digests(run / 'iter_8.pth') == digests(whole / 'iter_8.pth')


EVERYWHERE = [f'iteration:{number}' for number in range(4, LAST)] + [
    'validation:4', 'validation:8',
    *(f'{moment}:iter_{number}.pth' for moment in ('half', 'written', 'renamed')
      for number in (6, LAST)),
    *(f'{moment}:best_teacher_mIoU_iter_4.pth' for moment in ('half', 'written', 'renamed')),
    'removing:iter_3.pth', 'removing:iter_6.pth',
    ['iteration:3', 'iteration:6'], ['half:iter_6.pth', 'half:iter_8.pth'],
    ['iteration:5', 'iteration:5', 'validation:8'],
]


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_killed_everywhere(method, tmp_path, workers):
    check(method, tmp_path / 'runs', EVERYWHERE, {'train_dataloader.num_workers': workers})


@pytest.mark.slow
@pytest.mark.parametrize('config', ['method', 'stock'])
@pytest.mark.parametrize('workers', [0, 1])
def test_two_processes_killed_everywhere(request, tmp_path, config, workers):
    places = ['iteration:4', 'iteration:6', 'iteration:7', 'validation:4', 'half:iter_6.pth',
              'renamed:iter_8.pth']
    check(request.getfixturevalue(config), tmp_path / 'runs', places,
          {'train_dataloader.num_workers': workers}, world=2)


def test_killed_between_checkpoint_and_its_record(stock, tmp_path):
    """``last_checkpoint`` is written like a checkpoint; an older one is as good."""
    for number, place in enumerate(('half:last_checkpoint', 'written:last_checkpoint')):
        run = tmp_path / f'run{number}'
        assert train(stock, run, {'randomness.seed': 5}, place=place) == [KILLED], read_log(run)
        assert files(run) == ['iter_3.pth'] and not (run / 'last_checkpoint').exists()
        assert train(stock, run, {'randomness.seed': 5}, resume=True) == [0], read_log(run)
        assert (run / 'last_checkpoint').read_text().endswith('iter_8.pth')
    assert digests(tmp_path / 'run0/iter_8.pth') == digests(tmp_path / 'run1/iter_8.pth')


def test_a_full_disk_leaves_the_last_checkpoint(stock, tmp_path):
    run = tmp_path / 'run'
    options = {'randomness.seed': 5}
    assert train(stock, run, options, place='full:iter_6.pth') == [1]
    assert 'iter_6.pth could not be written' in read_log(run) and '--resume' in read_log(run)
    assert files(run) == ['best_mIoU_iter_4.pth', 'iter_4.pth']
    assert not list(run.glob('.*.partial'))
    assert train(stock, run, options, resume=True) == [0], read_log(run)
    assert 'iter_8.pth' in files(run)
