# Licensed under the Apache License, Version 2.0.
from itertools import islice

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_semi import write_semi_config

from mmseg_reco.engine.launch import batch_norm_for_cpu, make_resumable
from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader


def flatten(batch):
    """Images of a batch by branch and place, None left out."""
    inputs = batch['inputs']
    parts = inputs.items() if isinstance(inputs, dict) else [('all', inputs)]
    return {(name, i): image for name, images in parts for i, image in enumerate(images)
            if image is not None}


class Spy(Hook):
    """Keeps what every iteration gets: its images, and the next random number."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        state = torch.get_rng_state()
        self.seen.append((flatten(data_batch), torch.rand(1).item()))
        torch.set_rng_state(state)


@pytest.mark.parametrize('semi, burn_in', [(False, 0), (True, 0), (True, 2)])
def test_batches_are_those_that_training_gets(tiny_config, tmp_path, semi, burn_in):
    """Those of the burn-in, of labelled images alone, are passed over."""
    text = tiny_config.read_text().replace(
        "dict(type='PackSegInputs')", "dict(type='RandomFlip', prob=0.5), "
        "dict(type='PackSegInputs')")
    tiny_config.write_text(text)
    path = write_semi_config(tiny_config) if semi else tiny_config
    options = {'randomness.seed': 5, 'work_dir': str(tmp_path / 'run'),
               'train_cfg.max_iters': burn_in + 3, 'train_cfg.val_interval': 99}
    if burn_in:
        options.update({'model.semi_train_cfg': dict(burn_in=burn_in),
                        'train_dataloader.sampler.burn_in': burn_in})
    cfg = read_config(str(path), options)
    make_resumable(cfg)
    batch_norm_for_cpu(cfg)
    spy = Spy()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(spy, 'VERY_HIGH')
    runner._val_loop = None
    runner.train()

    cfg = read_config(str(path), options)
    batches = islice(training_batches(cfg, training_loader(cfg)), 3)
    offline = [(flatten(batch), torch.rand(1).item()) for batch in batches]
    assert len(offline) == 3
    for images, _ in spy.seen[:burn_in]:
        assert len(images) == 4 and {branch for branch, _ in images} == {'sup'}
    seen = spy.seen[burn_in:]
    for (images, number), (expected, expected_number) in zip(offline, seen, strict=True):
        assert images.keys() == expected.keys()
        assert all(torch.equal(images[key], expected[key]) for key in images)
        assert number == expected_number


def test_random_weights_follow_the_seed_and_a_checkpoint_replaces_them(tiny_config, tmp_path):
    path = str(write_semi_config(tiny_config))
    first, again, other = (
        load_model(read_config(path, {'randomness.seed': seed})).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = 'teacher.decode_head.conv_seg.weight'
    assert not torch.equal(first[key], other[key])
    torch.save(dict(state_dict=other), tmp_path / 'other.pth')
    loaded = load_model(read_config(path), str(tmp_path / 'other.pth')).state_dict()
    assert torch.equal(loaded[key].cpu(), other[key].cpu())


def test_a_checkpoint_of_something_else_is_refused(tiny_config, tmp_path):
    torch.save(dict(state_dict={'encoder.weight': torch.ones(2)}), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='holds no weight'):
        load_model(read_config(str(tiny_config)), str(tmp_path / 'other.pth'))
    with pytest.raises(FileNotFoundError, match='No such checkpoint'):
        load_model(read_config(str(tiny_config)), str(tmp_path / 'missing.pth'))
