# Licensed under the Apache License, Version 2.0.
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmseg_reco.engine.hooks import NumericalWatchHook
from mmseg_reco.engine.hooks.numerical_watch_hook import all_finite, image_paths

BAD = 3  # the image on which a number is not finite


class Line(BaseModel):
    """y = BN(x) w; the loss, or its gradient alone, breaks on one image."""

    def __init__(self, breaks='loss'):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
        self.breaks = breaks

    def forward(self, inputs, data_samples, mode='tensor'):
        bad = any(sample.img_path.startswith(str(BAD)) for sample in data_samples)
        x = torch.stack(inputs)
        if bad and self.breaks == 'input':
            x = x * torch.inf
        y = self.layers(x)
        losses = dict(
            loss_square=y.square().mean(), loss_root=y.mean() * 0, acc=y.sum() * torch.nan)
        if bad and self.breaks == 'loss':
            losses['loss_root'] = (losses['loss_root'] - 1).sqrt()
        if bad and self.breaks == 'gradient':
            losses['loss_root'] = losses['loss_root'].sqrt()  # 0, of infinite slope
        return losses


class Records(Hook):
    """What a teacher would see after each iteration."""

    priority = 'NORMAL'

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.states.append({name: value.clone() for name, value in
                            runner.model.state_dict().items()})


def train(tmp_path, request, breaks, action, accumulate=1, optimizer='SGD'):
    torch.manual_seed(0)
    data = [dict(inputs=torch.randn(1), data_samples=BaseDataElement(
        metainfo=dict(img_path=f'{index // 2}.png'))) for index in range(16)]
    records = Records()
    arguments = dict(momentum=0.9) if optimizer == 'SGD' else dict()
    runner = Runner(
        Line(breaks), str(tmp_path),
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=data,
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(type='ResumableTrainLoop', max_iters=8),
        optim_wrapper=dict(accumulative_counts=accumulate, optimizer=dict(
            type=optimizer, lr=0.1, weight_decay=0.1, **arguments)),
        default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[NumericalWatchHook(action), records], default_scope='mmseg',
        experiment_name=request.node.name, randomness=dict(seed=0))
    try:
        runner.train()
    finally:
        runner.records = records.states
        train.runner = runner
    return runner


def finite(state):
    return all(value.isfinite().all() for value in state.values())


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize('breaks', ['loss', 'input'])
def test_stop_names_the_term_and_the_images(tmp_path, request, breaks):
    term = dict(loss='loss_root = nan', input='loss_square = nan')[breaks]
    with pytest.raises(FloatingPointError, match=f'Iteration 4: .*{term}.* Images: 3.png'):
        train(tmp_path, request, breaks, 'stop')
    # before the teacher could move and a checkpoint could be written
    assert len(train.runner.records) == BAD
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == [
        f'iter_{number}.pth' for number in range(1, BAD + 1)]
    weights = torch.load(tmp_path / 'iter_3.pth', weights_only=True)['state_dict']
    assert finite(weights)


@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
@pytest.mark.parametrize('breaks', ['loss', 'input', 'gradient'])
def test_skip_leaves_everything_as_it_was(tmp_path, request, breaks, optimizer):
    runner = train(tmp_path, request, breaks, 'skip', optimizer=optimizer)
    states = runner.records
    assert len(states) == 8 and runner.message_hub.get_info('skipped_iters') == 1
    assert equal(states[BAD], states[BAD - 1])  # weights, running statistics and their count
    for index in (1, 2, 4, 5, 6, 7):
        assert not equal(states[index], states[index - 1])
    assert finite(states[-1])
    log = next(tmp_path.glob('*/*.log')).read_text()
    text = dict(gradient='the gradients are not finite', loss='loss_root = nan', input='nan')
    assert text[breaks] in log and '3.png. Skipped; 1 so far.' in log and 'acc' not in log.split(
        'not finite')[1].split('Images')[0]


def test_skip_with_accumulated_gradients(tmp_path, request):
    """One bad batch takes the update that it is part of with it."""
    states = train(tmp_path, request, 'input', 'skip', accumulate=2).records
    weights = [state['layers.1.weight'] for state in states]
    assert torch.equal(weights[BAD], weights[BAD - 1]) and not torch.equal(weights[1], weights[0])
    assert not torch.equal(weights[5], weights[BAD]) and finite(states[-1])


def test_weights_that_are_not_finite_are_not_saved(tmp_path, request):
    """As on a rank whose own losses are finite."""
    with pytest.raises(FloatingPointError, match=r'are no longer finite.*iter_3\.pth'):
        train(tmp_path, request, 'gradient', 'stop')
    assert not (tmp_path / 'iter_4.pth').exists()


def test_statistics_that_are_not_finite_are_not_saved():
    """Losses in train mode do not show them; a buffer that is no statistic may be infinite."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.register_buffer('mask', torch.tensor(-torch.inf))
    runner = SimpleNamespace(model=model, work_dir='.')
    NumericalWatchHook().before_save_checkpoint(runner, {})
    model[1].running_var[2] = torch.inf
    with pytest.raises(FloatingPointError, match=r'the first is 1\.running_var'):
        NumericalWatchHook().before_save_checkpoint(runner, {})


def test_actions():
    with pytest.raises(ValueError, match="action is one of .*got 'warn'"):
        NumericalWatchHook('warn')


def test_images_of_branches():
    sample = [BaseDataElement(metainfo=dict(img_path=name)) for name in 'ab']
    batch = dict(inputs=dict(sup=[None, torch.zeros(1)]),
                 data_samples=dict(sup=[sample[0], None], unsup=[None, sample[1]]))
    assert list(image_paths(batch)) == ['a', 'b']


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_all_finite(value):
    tensors = [torch.full((3,), 3e38), torch.zeros(2, 2), torch.tensor(1, dtype=torch.float16)]
    assert all_finite(tensors)
    tensors[1][1, 0] = value
    assert not all_finite(tensors)
