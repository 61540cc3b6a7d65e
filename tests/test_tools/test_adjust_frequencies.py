# Licensed under the Apache License, Version 2.0.
import runpy
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from tiny_segmentor import query_segmentor_config
from tiny_semi import write_semi_config

from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader

TOOL = Path(__file__).parents[2] / 'tools/model_converters/adjust_frequencies.py'
WANTED = [0.7, 0.2, 0.1]


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    runpy.run_path(str(TOOL), run_name='__main__')


def save(cfg, path):
    """A checkpoint of a fresh model that has its likes and dislikes."""
    model = load_model(cfg)
    for name, value in model.named_parameters():
        if name.endswith('conv_seg.bias'):
            value.data.copy_(torch.linspace(0, 2 if 'teacher' in name else 1, 3))
    torch.save(dict(state_dict=model.state_dict(), optimizer=dict()), path)
    return model.eval()


@torch.no_grad()
def mean_probability(network, model, cfg, batches):
    """Of each class, by a plain loop."""
    total, pixels = torch.zeros(3), 0
    for batch in islice(training_batches(cfg, training_loader(cfg)), batches):
        images = model.data_preprocessor(batch, True)['inputs']
        images = images.get('unsup') if isinstance(images, dict) else images
        logits = network._forward(images)
        logits = torch.nn.functional.interpolate(logits, images.shape[2:], mode='bilinear')
        for probs in logits.softmax(1):
            total += probs.sum((1, 2))
            pixels += probs[0].numel()
    return total / pixels


def write_cascade(tiny_config):
    """OCRNet, whose second head predicts."""
    cfg = Config.fromfile(tiny_config)
    first = dict(cfg.model.decode_head, num_classes=3)
    second = dict(first, type='OCRHead', ocr_channels=4)
    for key in ('num_convs', 'concat_input'):
        second.pop(key, None)
    cfg.model.update(type='CascadeEncoderDecoder', num_stages=2, decode_head=[first, second])
    cfg.dump(tiny_config.with_name('cascade.py'))
    return tiny_config.with_name('cascade.py')


@MODELS.register_module()
class DeafHead(FCNHead):
    """It has a conv_seg, as all have, but another classifier."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.own = torch.nn.Conv2d(self.channels, self.num_classes, 1)

    def cls_seg(self, feat):
        return self.own(feat)


@pytest.mark.parametrize('kind', ['supervised', 'semi', 'cascade'])
def test_biases_move_by_wanted_over_found(kind, tiny_config, tmp_path, monkeypatch, capsys):
    write = dict(semi=write_semi_config, cascade=write_cascade).get(kind, lambda path: path)
    path, bias = write(tiny_config), 'decode_head.conv_seg.bias'
    keys = dict(semi={'student': f'student.{bias}', 'teacher': f'teacher.{bias}'},
                cascade={'': 'decode_head.1.conv_seg.bias'}).get(kind, {'': bias})
    cfg, source, out = read_config(str(path)), tmp_path / 'it.pth', tmp_path / 'out.pth'
    before = save(cfg, source)
    run(monkeypatch, path, source, out, '--frequencies', *WANTED, '--batches', 3)
    after = load_model(cfg, str(out)).eval()
    said = capsys.readouterr().out
    old, new = before.state_dict(), after.state_dict()
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert changed == set(keys.values())
    wanted = torch.tensor(WANTED)
    for name, key in keys.items():
        network = getattr(before, name) if name else before
        found = mean_probability(network, before, cfg, 3)
        assert f'{100 * found[0]:.2f}' in said
        shift = (wanted / found).log()
        torch.testing.assert_close(new[key] - old[key], shift - shift.mean(), rtol=1e-4, atol=1e-5)
        better = mean_probability(getattr(after, name) if name else after, after, cfg, 3)
        assert (better - wanted).abs().max() < 0.5 * (found - wanted).abs().max()
    meta = torch.load(out, weights_only=True)['meta']['dataset_meta']
    assert meta['classes'] == training_loader(cfg).dataset.metainfo['classes']


def test_frequencies_of_the_config_are_the_default(tiny_config, tmp_path, monkeypatch):
    path = write_semi_config(tiny_config)
    options = ['--cfg-options', 'model.semi_train_cfg.class_frequencies=[0.7,0.2,0.1]']
    cfg = read_config(str(path), {'model.semi_train_cfg.class_frequencies': WANTED})
    save(cfg, tmp_path / 'it.pth')
    run(monkeypatch, path, tmp_path / 'it.pth', tmp_path / 'a.pth', '--batches', 1, *options)
    run(monkeypatch, path, tmp_path / 'it.pth', tmp_path / 'b.pth', '--batches', 1, *options,
        '--frequencies', 7, 2, 1)
    key = 'teacher.decode_head.conv_seg.bias'
    first, second = (torch.load(tmp_path / f'{name}.pth')['state_dict'][key] for name in 'ab')
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize('arguments, words', [
    ([], 'give --frequencies'),
    (['--frequencies', 1, 2], '3 classes, and each needs a frequency > 0'),
    (['--frequencies', 1, 2, 0], '3 classes, and each needs a frequency > 0'),
    (['--frequencies', *WANTED, '--batches', 0], 'at least 1')])
def test_wrong_use_is_refused(arguments, words, tiny_config, tmp_path, monkeypatch, capsys):
    source, out = tmp_path / 'it.pth', tmp_path / 'out.pth'
    save(read_config(str(tiny_config)), source)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tiny_config, source, out, *arguments)
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not out.exists()


def test_a_head_that_predicts_by_something_else_is_refused(
        tiny_config, tmp_path, monkeypatch, capsys):
    cfg = Config.fromfile(tiny_config)
    cfg.model.decode_head.type = 'DeafHead'
    cfg.dump(tmp_path / 'deaf.py')
    save(cfg, tmp_path / 'it.pth')
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / 'deaf.py', tmp_path / 'it.pth', tmp_path / 'out.pth',
            '--frequencies', *WANTED)
    assert 'DeafHead predicts by more than its classifier' in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()


def test_nothing_is_overwritten_and_query_heads_are_refused(
        tiny_config, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tiny_config, 'it.pth', tiny_config, '--frequencies', *WANTED)
    assert 'exists already' in capsys.readouterr().err
    pytest.importorskip('mmdet')
    cfg = Config.fromfile(tiny_config)
    head = query_segmentor_config()
    head.decode_head.num_classes = 3
    head.decode_head.loss_cls.class_weight = [1.] * 3 + [0.1]
    cfg.model = dict(type='MeanTeacherReCo', segmentor=head, losses=[])
    path = tmp_path / 'queries.py'
    cfg.custom_imports = dict(imports=['mmseg_reco'])
    cfg.dump(path)
    torch.save(dict(state_dict=load_model(read_config(str(path))).state_dict()),
               tmp_path / 'it.pth')
    with pytest.raises(SystemExit):
        run(monkeypatch, path, tmp_path / 'it.pth', tmp_path / 'out.pth', '--frequencies', *WANTED)
    assert 'no classifier of pixels' in capsys.readouterr().err
