# Licensed under the Apache License, Version 2.0.
import logging
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmseg_reco.engine.checkpoint import latest_checkpoint, load_local, safe_checkpoint_loading
from mmseg_reco.engine.hooks import SafeCheckpointHook
from mmseg_reco.engine.hooks.safe_checkpoint_hook import gather_buffers, restore_buffers

ITERS = 12


class Line(BaseModel):
    """Fits y = 2 x; the running mean stands for buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))

    def forward(self, x, mode='tensor'):
        x = torch.stack(x)
        return dict(loss=(self.layers(x) - 2 * x).square().mean())

    def val_step(self, data):
        return [data]


class Scores(BaseMetric):
    """Hands out given scores, one per validation."""

    default_prefix = None
    values: list = []

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score = Scores.values.pop(0)
        return dict(mIoU=score, aAcc=score)


def run(work_dir, name, iters, scores, hook=SafeCheckpointHook, trusted=(), save_best='mIoU',
        out_dir=None):
    """Train up to ``iters``, from the latest checkpoint if there is one."""
    Scores.values = list(scores)
    torch.manual_seed(0)
    data = [dict(x=torch.randn(1)) for _ in range(8)]
    loader = dict(batch_size=4, num_workers=0, dataset=data)
    runner = Runner(
        Line(),
        str(work_dir),
        train_dataloader=dict(loader, sampler=dict(type='InfiniteSampler', shuffle=False)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=3),
        val_cfg=dict(),
        val_evaluator=Evaluator(Scores()),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=[
            dict(type='PolyLR', power=0.9, end=ITERS, by_epoch=False),
            dict(type='MultiStepLR', milestones=[5], by_epoch=False),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=hook(by_epoch=False, interval=3, save_best=save_best, max_keep_ckpts=1,
                            out_dir=out_dir),
        ),
        log_processor=dict(by_epoch=False),
        resume=True,
        default_scope='mmengine',
        experiment_name=name,
        randomness=dict(seed=0),
    )
    with safe_checkpoint_loading(trusted):
        runner.train()
    return runner


def history(runner, key):
    return runner.message_hub.get_scalar(key).data[0]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    scores = [10.0, 30.0, 20.0, 25.0]
    whole = run(tmp_path / 'whole', 'whole', ITERS, scores)
    run(tmp_path / 'parts', 'first', 6, scores[:2])
    resumed = run(tmp_path / 'parts', 'second', ITERS, scores[2:])

    assert resumed.iter == ITERS
    for key in ('train/loss', 'train/lr'):
        assert len(history(resumed, key)) == ITERS
        assert history(resumed, key) == pytest.approx(history(whole, key), rel=1e-6)
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(resumed.model.state_dict()[name], value, rtol=1e-6), name
    assert resumed.message_hub.get_info('best_score') == 30.0
    # 25 after 30 is no new best; the kept files of the first part count in the second
    assert sorted(path.name for path in (tmp_path / 'parts').glob('*.pth')) == [
        'best_mIoU_iter_6.pth',
        'iter_12.pth',
    ]


def test_a_new_best_after_resume_replaces_the_old(tmp_path):
    run(tmp_path, 'old_best', 3, [10.0])
    runner = run(tmp_path, 'new_best', 6, [20.0])
    assert runner.message_hub.get_info('best_score') == 20.0
    assert [path.name for path in tmp_path.glob('best*')] == ['best_mIoU_iter_6.pth']


@pytest.mark.parametrize('save_best', ['mIoU', ['mIoU', 'aAcc']])
def test_a_better_score_at_the_same_iteration_replaces_the_file(tmp_path, save_best):
    runner = run(tmp_path, f'twice_{len(save_best)}', 3, [10.0], save_best=save_best)
    with torch.no_grad():
        runner.model.layers[1].weight.fill_(2)
    Scores.values = [20.0]
    runner.val_loop.run()
    names = [f'best_{key}_iter_3.pth' for key in ('mIoU', 'aAcc') if key in save_best]
    assert sorted(path.name for path in tmp_path.glob('best*')) == sorted(names)
    for name in names:
        assert load_local(str(tmp_path / name))['state_dict']['layers.1.weight'] == 2


def test_the_best_checkpoint_stays_until_the_next_is_written(tmp_path, monkeypatch):
    stock = Runner.save_checkpoint

    def save(self, out_dir, filename, *args, **kwargs):
        if filename == 'best_mIoU_iter_6.pth':
            raise OSError('disk full')
        stock(self, out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(Runner, 'save_checkpoint', save)
    with pytest.raises(OSError, match='disk full.*--resume'):
        run(tmp_path, 'full', 6, [10.0, 20.0])
    assert [path.name for path in tmp_path.glob('best*')] == ['best_mIoU_iter_3.pth']


def test_checkpoints_may_lie_elsewhere(tmp_path):
    """In a folder of the run's name; the work directory says where."""
    work, out = tmp_path / 'work' / 'name', tmp_path / 'out'
    run(work, 'elsewhere', 3, [10.0], out_dir=str(out))
    assert latest_checkpoint(work) == str(out / 'name' / 'iter_3.pth')
    resumed = run(work, 'elsewhere_again', 6, [20.0], out_dir=str(out))
    assert len(history(resumed, 'train/loss')) == 6
    assert latest_checkpoint(work) == str(out / 'name' / 'iter_6.pth')
    assert sorted(path.name for path in tmp_path.rglob('*.pth')) == [
        'best_mIoU_iter_6.pth', 'iter_6.pth']


@pytest.mark.parametrize('save_best', ['mIoU', ['mIoU', 'aAcc']])
def test_the_best_checkpoint_of_another_run_is_left_alone(tmp_path, save_best):
    first, second = tmp_path / 'first', tmp_path / 'second'
    names = [f'best_{key}_iter_3.pth' for key in ('mIoU', 'aAcc') if key in save_best]
    run(first, f'other_{len(names)}', 3, [10.0], save_best=save_best)
    second.mkdir()
    (second / 'last_checkpoint').write_text(str(first / 'iter_3.pth'))
    run(second, f'begins_with_it_{len(names)}', 6, [20.0], save_best=save_best)
    assert sorted(path.name for path in first.glob('best*')) == sorted(names)
    assert len(list(second.glob('best*iter_6.pth'))) == len(names)


def test_a_new_best_replaces_the_old_in_a_moved_folder(tmp_path):
    run(tmp_path / 'before', 'before_move', 3, [10.0])
    (tmp_path / 'before').rename(tmp_path / 'after')
    (tmp_path / 'after/last_checkpoint').write_text(str(tmp_path / 'after/iter_3.pth'))
    run(tmp_path / 'after', 'after_move', 6, [20.0])
    assert [path.name for path in tmp_path.rglob('best*')] == ['best_mIoU_iter_6.pth']


def test_checkpoints_are_plain_and_complete(tmp_path):
    runner = run(tmp_path, 'plain', 3, [10.0])
    checkpoint = torch.load(tmp_path / 'iter_3.pth', weights_only=True)
    assert checkpoint['meta']['iter'] == 3
    assert checkpoint['message_hub']['runtime_info']['best_score'] == 10.0
    assert checkpoint['message_hub']['log_scalars']['train/loss']['log'].shape == (3,)
    assert history(runner, 'train/loss').shape == (3,)  # the running hub is left as it was


def test_stock_checkpoint_needs_consent(tmp_path):
    run(tmp_path, 'stock', 3, [10.0], hook=CheckpointHook)
    file = str(tmp_path / 'iter_3.pth')
    with pytest.raises(pickle.UnpicklingError, match=f'--trust-checkpoint {file}'):
        run(tmp_path, 'refused', 6, [20.0])
    resumed = run(tmp_path, 'consent', 6, [20.0], trusted=[file])
    assert len(history(resumed, 'train/loss')) == 6
    assert load_local(str(tmp_path / 'iter_6.pth'))['meta']['iter'] == 6


def test_intervals_between_updates_are_warned_of(tmp_path, caplog):
    runner = SimpleNamespace(
        work_dir=str(tmp_path), logger=logging.getLogger('hook'), message_hub=MessageHub('hub'),
        optim_wrapper=SimpleNamespace(_accumulative_counts=4))
    SafeCheckpointHook(by_epoch=False, interval=8).before_train(runner)
    assert 'multiple of' not in caplog.text
    SafeCheckpointHook(by_epoch=False, interval=6).before_train(runner)
    assert 'multiple of 4' in caplog.text


def test_every_rank_gets_its_buffers_back(monkeypatch):
    hook = 'mmseg_reco.engine.hooks.safe_checkpoint_hook.'
    models = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    models[1].running_mean += 3
    assert gather_buffers(models[0]) == []
    monkeypatch.setattr(hook + 'get_world_size', lambda: 2)
    monkeypatch.setattr(hook + 'all_gather_object', lambda own: [
        dict(model.named_buffers()) for model in models])
    ranks = gather_buffers(models[0])
    assert ranks[0] == {} and list(ranks[1]) == ['running_mean']  # the others are the same

    for rank in (0, 1):
        monkeypatch.setattr(hook + 'get_rank', lambda rank=rank: rank)
        checkpoint = dict(meta=dict(world_size=2), state_dict=models[0].state_dict(),
                          buffers_of_ranks=ranks)
        restore_buffers(checkpoint)
        assert torch.equal(checkpoint['state_dict']['running_mean'], models[rank].running_mean)
    warnings = []
    monkeypatch.setattr(hook + 'print_log', lambda text, **kwargs: warnings.append(text))
    checkpoint = dict(meta=dict(world_size=3), state_dict=models[0].state_dict(),
                      buffers_of_ranks=[*ranks, {}])
    restore_buffers(checkpoint)
    assert torch.equal(checkpoint['state_dict']['running_mean'], models[0].running_mean)
    assert 'in 3 process(es), this one has 2' in warnings[0]
