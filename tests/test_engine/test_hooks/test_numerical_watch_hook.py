# Licensed under the Apache License, Version 2.0.
import logging
import math
from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from gloo import run_ranks
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import LinearLR, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmseg_reco.engine.hooks import NumericalWatchHook
from mmseg_reco.engine.hooks.numerical_watch_hook import all_finite, image_paths

BAD = 3  # the image on which a number is not finite, unless a test takes another


class Line(BaseModel):
    """y = BN(x) w; the loss, or its gradient alone, breaks on one image."""

    def __init__(self, breaks='loss', image=BAD):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
        self.breaks, self.image = breaks, image

    def forward(self, inputs, data_samples, mode='tensor'):
        bad = any(sample.img_path.startswith(str(self.image)) for sample in data_samples)
        x = torch.stack(inputs)
        if bad and self.breaks == 'input':
            x = x * torch.inf
        y = self.layers(x)
        losses = dict(
            loss_square=y.square().mean(), loss_root=y.mean() * 0, acc=y.sum() * torch.nan)
        if bad and self.breaks == 'loss':
            losses['loss_root'] = (losses['loss_root'] - 1).sqrt()
        if bad and self.breaks == 'constant':  # of finite gradients
            losses['loss_root'] = losses['loss_root'] + torch.inf
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


def samples(size):
    """Two for each image."""
    torch.manual_seed(0)
    return [dict(inputs=torch.randn(1), data_samples=BaseDataElement(
        metainfo=dict(img_path=f'{index // 2}.png'))) for index in range(size)]


def train(tmp_path, request, breaks, action, optimizer='SGD'):
    data = samples(16)
    records = Records()
    arguments = dict(momentum=0.9) if optimizer == 'SGD' else dict()
    runner = Runner(
        Line(breaks), str(tmp_path),
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=data,
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(type='ResumableTrainLoop', max_iters=8),
        optim_wrapper=dict(optimizer=dict(
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
@pytest.mark.parametrize('breaks', ['loss', 'input', 'gradient', 'constant'])
def test_skip_leaves_everything_as_it_was(tmp_path, request, breaks, optimizer):
    runner = train(tmp_path, request, breaks, 'skip', optimizer=optimizer)
    states = runner.records
    assert len(states) == 8 and runner.message_hub.get_info('skipped_iters') == 1
    assert equal(states[BAD], states[BAD - 1])  # weights, running statistics and their count
    for index in (1, 2, 4, 5, 6, 7):
        assert not equal(states[index], states[index - 1])
    assert finite(states[-1])
    log = next(tmp_path.glob('*/*.log')).read_text()
    text = dict(gradient='not finite: a gradient', loss='loss_root = nan', input='nan',
                constant='loss_root = inf')
    assert text[breaks] in log and '3.png. Skipped; 1 so far.' in log and 'acc' not in log.split(
        'not finite')[1].split('Images')[0]


class ScaledWrapper(OptimWrapper):
    """mmengine's AmpOptimWrapper, which wants a GPU, on the CPU."""

    def __init__(self, optimizer, init_scale=1024.):
        super().__init__(optimizer)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=init_scale)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


def step_through(model, wrapper, batches):
    """States after each batch, and how many were skipped."""
    hook, hub = NumericalWatchHook('skip'), MessageHub('numbers')
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, message_hub=hub, iter=0,
                             logger=logging.getLogger('numbers'))
    hook.before_train(runner)
    states = []
    for batch in batches:
        hook.before_train_iter(runner, 0, batch)
        outputs = model.train_step(batch, wrapper)
        for name, value in outputs.items():
            hub.update_scalar(f'train/{name}', value)
        hook.after_train_iter(runner, 0, batch, outputs)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    return states, hub.get_info('skipped_iters', 0)


def batches_of(images, seed=0):
    torch.manual_seed(seed)
    return [dict(inputs=list(torch.randn(2, 1)), data_samples=[
        BaseDataElement(metainfo=dict(img_path=f'{image}.png'))] * 2) for image in images]


def plain_loop(batches, image, accumulate):
    """States after each update of SGD with momentum, of which one is left out."""
    torch.manual_seed(0)
    model, states = Line(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    for start in range(0, len(batches), accumulate):
        if image not in range(start, start + accumulate):
            for batch in batches[start:start + accumulate]:
                y = model.layers(torch.stack(batch['inputs']))
                (y.square().mean() / accumulate).backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    return states


@pytest.mark.parametrize(('accumulate', 'image'), [(1, 3), (2, 2), (2, 3), (4, 5)])
@pytest.mark.parametrize('breaks', ['loss', 'input', 'gradient', 'constant'])
def test_a_bad_batch_takes_its_update_with_it(breaks, accumulate, image):
    """Whichever of the accumulated batches it is: as if there were none of them."""
    batches = batches_of(range(8))
    torch.manual_seed(0)
    model = Line(breaks, image)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    states, skipped = step_through(model, OptimWrapper(optimizer, accumulate), batches)
    assert skipped == 1
    for state, expected in zip(states[accumulate - 1::accumulate],
                               plain_loop(batches, image, accumulate), strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-7)
    assert all(map(finite, states))  # what a teacher would see in between, too


def test_ranks_skip_together():
    """Rank 1 alone has a bad loss, in the second of three batches."""
    wrappers = [OptimWrapper] + [ScaledWrapper] * hasattr(torch.amp, 'GradScaler')

    def steps(rank):
        results = []
        for breaks, wrapper in product(['loss', 'constant'], wrappers):
            torch.manual_seed(0)
            model = MMDistributedDataParallel(Line(breaks), broadcast_buffers=False)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            results.append(step_through(
                model, wrapper(optimizer), batches_of([0, BAD * rank, 0], seed=rank)))
        return results

    for results in zip(*run_ranks(steps), strict=True):
        for states, skipped in results:
            assert skipped == 1 and equal(states[1], states[0])
            assert not equal(states[2], states[1]) and finite(states[2])
        assert torch.equal(*(states[2]['module.layers.1.weight'] for states, _ in results))


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='needs torch 2.3')
def test_an_overflow_of_scaled_gradients_is_left_to_the_scaler():
    torch.manual_seed(0)
    model = Line()
    nn.init.constant_(model.layers[1].weight, 8.)
    before = {name: value.clone() for name, value in model.named_parameters()}
    wrapper = ScaledWrapper(torch.optim.SGD(model.parameters(), lr=0.1), init_scale=2.**127)
    states, skipped = step_through(model, wrapper, batches_of([0] * 8))
    assert equal(before, states[0]) and not equal(before, states[-1]) and finite(states[-1])
    assert skipped == 0 and wrapper.loss_scaler.get_scale() < 2.**127


def test_each_of_several_optimizers_is_watched():
    parts = nn.ModuleDict(dict(a=nn.Linear(1, 1), b=nn.Linear(1, 1)))
    wrapper = OptimWrapperDict(**{name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1))
                                  for name, part in parts.items()})
    hook = NumericalWatchHook('skip')
    hook.before_train(SimpleNamespace(model=parts, optim_wrapper=wrapper))
    for name, scale in dict(a=1., b=torch.nan).items():
        before = parts[name].weight.clone()
        hook.before_train_iter(None, 0)
        wrapper[name].update_params(scale * parts[name](torch.ones(1, 1)).sum())
        assert torch.equal(parts[name].weight, before) == (name == 'b')


def test_schedulers_still_see_the_steps(recwarn):
    """They warn of a step that they do not count."""
    model = nn.Linear(1, 1)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.))
    scheduler = LinearLR(wrapper, start_factor=0.5, end=2)
    NumericalWatchHook('skip').before_train(SimpleNamespace(model=model, optim_wrapper=wrapper))
    wrapper.update_params(model(torch.ones(1, 1)).sum())
    scheduler.step()
    assert wrapper.get_lr() == dict(lr=[1.])
    assert not [warning for warning in recwarn if 'step()' in str(warning.message)]


def test_weights_that_are_not_finite_are_not_saved(tmp_path, request):
    """As on a rank whose own losses are finite."""
    with pytest.raises(FloatingPointError, match=r'are no longer finite.*iter_3\.pth'):
        train(tmp_path, request, 'gradient', 'stop')
    assert not (tmp_path / 'iter_4.pth').exists()


def test_statistics_that_are_not_finite_are_not_saved():
    """Losses in train mode do not show them; a buffer that is no statistic may be infinite."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.register_buffer('mask', torch.tensor(-torch.inf))
    runner = SimpleNamespace(model=model, work_dir='.', hooks=[])
    NumericalWatchHook().before_save_checkpoint(runner, {})
    model[1].running_var[2] = torch.inf
    with pytest.raises(FloatingPointError, match=r'the first is 1\.running_var'):
        NumericalWatchHook().before_save_checkpoint(runner, {})


def test_statistics_of_another_rank_that_are_not_finite_are_not_saved(tmp_path):
    """Rank 1's own BN statistics go into the checkpoint that rank 0 writes."""

    class Breaks(Hook):

        def after_train_iter(self, runner, **kwargs):
            rank = get_rank()
            runner.model.register_buffer('mask', torch.tensor([0., -torch.inf][rank]))  # may be
            runner.model.layers[0].running_var *= [1., 1e30][rank]

    def save(rank):
        runner = Runner(
            Line(), str(tmp_path),
            train_dataloader=dict(batch_size=2, num_workers=0, dataset=samples(4),
                                  sampler=dict(type='DefaultSampler', shuffle=False)),
            train_cfg=dict(type='ResumableTrainLoop', max_iters=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(
                checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=1)),
            custom_hooks=[NumericalWatchHook(), Breaks()], default_scope='mmseg',
            experiment_name='ranks', randomness=dict(seed=0))
        with pytest.raises(FloatingPointError) if rank == 0 else nullcontext() as caught:
            runner.train()
        return caught and str(caught.value)

    refused = run_ranks(save)[0]
    assert 'the first is rank 1: layers.0.running_var' in refused and 'iter_1.pth' in refused
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_1.pth']


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
