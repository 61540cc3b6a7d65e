# Licensed under the Apache License, Version 2.0.
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from scripts import load_script
from tiny_semi import write_semi_config

from mmseg_reco.engine.offline import load_model, read_config

TOOL = Path(__file__).parents[2] / 'tools/experiments/clean_statistics.py'


@pytest.fixture
def config(tiny_config):
    """Student and teacher on a folder that is laid out as CamVid is."""
    for folder, likeness in (('train', 'images'), ('trainannot', 'masks')):
        (tiny_config.parent / folder).symlink_to(likeness)
    (tiny_config.parent / 'train.txt').write_text('0\n1\n2\n3\n4\n5\n')
    return write_semi_config(tiny_config)


def batches(seed, number=3):
    generator = torch.Generator().manual_seed(seed)
    return [dict(inputs=torch.rand(4, 3, 32, 32, generator=generator), data_samples=None)
            for _ in range(number)]


def test_statistics_are_means_over_batches_and_those_of_the_teacher(config):
    model = load_model(read_config(str(config)))
    model.data_preprocessor.forward = lambda batch, training: batch
    student = {name: value.clone() for name, value in model.student.named_buffers()}
    load_script(TOOL).take_statistics(model, batches(0))

    conv = model.teacher.backbone.conv1
    maps = [conv.conv(batch['inputs']) for batch in batches(0)]
    torch.testing.assert_close(
        conv.bn.running_mean, torch.stack([part.mean((0, 2, 3)) for part in maps]).mean(0))
    torch.testing.assert_close(
        conv.bn.running_var, torch.stack([part.var((0, 2, 3)) for part in maps]).mean(0))
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, student[name])
               for name, value in model.student.named_buffers())


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_scores_before_and_after(config, tmp_path, monkeypatch):
    """A teacher whose statistics are wrong predicts one class before."""
    model = load_model(read_config(str(config)))
    for name, value in model.named_buffers():
        if name.endswith('running_var'):
            value.fill_(1e8)
    torch.nn.init.normal_(model.teacher.decode_head.conv_seg.weight)
    checkpoint = tmp_path / 'wrong.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    run(monkeypatch, config, checkpoint, '--work-dir', tmp_path / 'work')
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    scores = re.findall(r'\baAcc: ([\d.]+)', log)
    assert len(scores) == 2 and scores[0] != scores[1]


def test_statistics_are_those_of_every_fourth_training_image(config, tmp_path, monkeypatch):
    """As validation loads it."""
    tool, taken = load_script(TOOL), []

    def record(model, loader):
        assert loader.batch_size == 8
        taken.extend((sample.img_path, image.shape, sample.gt_sem_seg.shape)
                     for batch in loader for image, sample in zip(*batch.values(), strict=True))

    monkeypatch.setattr(tool, 'take_statistics', record)
    checkpoint = tmp_path / 'model.pth'
    torch.save(dict(state_dict=load_model(read_config(str(config))).state_dict()), checkpoint)
    monkeypatch.setattr(sys, 'argv', [
        'clean_statistics.py', str(config), str(checkpoint), '--work-dir', str(tmp_path / 'work')])
    tool.main()
    assert sorted(taken) == [
        (str(config.parent / f'train/{name}.png'), (3, 32, 32), (32, 32)) for name in '04']


def test_a_checkpoint_of_another_model_is_refused(config, tmp_path, monkeypatch, capsys):
    cfg = Config.fromfile(config)
    cfg.model.segmentor.decode_head.channels = 4
    checkpoint = tmp_path / 'other.pth'
    torch.save(dict(state_dict=load_model(cfg).state_dict()), checkpoint)
    with pytest.raises(SystemExit):
        run(monkeypatch, config, checkpoint, '--work-dir', tmp_path / 'work')
    assert 'decode_head' in capsys.readouterr().err
