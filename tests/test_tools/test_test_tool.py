# Licensed under the Apache License, Version 2.0.
import argparse
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.registry import MODELS
from PIL import Image
from scripts import load_script
from tiny_semi import write_semi_config

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'test.py'


@pytest.fixture
def tool():
    return load_script(TOOL)


def options(**changes):
    return argparse.Namespace(**{**dict(show=False, show_dir=None, wait_time=2.0), **changes})


def test_drawing_switches_the_hook_on_for_every_image(tool):
    hook = dict(type='SegVisualizationHook')
    cfg = Config(dict(default_hooks=dict(visualization=hook), visualizer=dict(type='V')))
    tool.draw_predictions(cfg, options(show_dir='out'))
    assert cfg.default_hooks.visualization == dict(hook, draw=True, interval=1)
    assert cfg.visualizer.save_dir == 'out'

    cfg = Config(dict(default_hooks=dict(visualization=dict(hook, interval=20))))
    tool.draw_predictions(cfg, options(show=True))
    expected = dict(hook, draw=True, interval=20, show=True, wait_time=2.0)
    assert cfg.default_hooks.visualization == expected

    with pytest.raises(ValueError, match='SegVisualizationHook'):
        tool.draw_predictions(Config(dict(default_hooks={})), options(show=True))


def test_tta_wraps_the_model(tool):
    cfg = Config(
        dict(
            model=dict(type='EncoderDecoder'),
            tta_model=dict(type='SegTTAModel'),
            tta_pipeline=[dict(type='A')],
            test_dataloader=dict(dataset=dict(pipeline=[dict(type='B')])),
        )
    )
    tool.use_tta(cfg)
    assert cfg.model == dict(type='SegTTAModel', module=dict(type='EncoderDecoder'))
    assert cfg.test_dataloader.dataset.pipeline == [dict(type='A')]
    with pytest.raises(ValueError, match='tta_pipeline'):
        tool.use_tta(Config(dict(model={})))


TTA = """
_base_ = './semi.py'
model = dict(segmentor=dict(decode_head=dict({head})))
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in {probs}],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
"""


@pytest.mark.parametrize('head', ['', 'num_classes=2, out_channels=1, threshold=0.3'])
def test_teacher_predicts_under_test_time_augmentation(
        tool, tiny_config, tmp_path, monkeypatch, capfd, head):
    """Of the image as it is: the same score as without. With its mirror image: another one."""
    write_semi_config(tiny_config)
    config, scores = tiny_config.with_name('tta.py'), []
    monkeypatch.setattr(tool, 'finish', lambda: None)
    for number, probs in enumerate(('[0.]', '[0.]', '[0., 1.]')):
        config.write_text(TTA.format(head=head, probs=probs))
        if number == 0:
            torch.manual_seed(0)
            cfg = Config.fromfile(config)
            model = MODELS.build(cfg.model)
            model.teacher.decode_head.conv_seg.weight.data.normal_(0, 10)  # several classes
            torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'it.pth')
        monkeypatch.setattr('sys.argv', [
            'test.py', str(config), str(tmp_path / 'it.pth'), '--work-dir', str(tmp_path / 'work'),
            *(['--tta'] if number else [])])
        tool.main()
        scores.append(re.findall('mIoU: ([0-9.]+)', ''.join(capfd.readouterr()))[-1])
    if not head:
        assert scores[0] == scores[1] != scores[2]
        return
    # With one channel mmseg takes the sigmoid of a sigmoid, which is above 0.3 everywhere: class 1.
    masks = [np.array(Image.open(path)) for path in (tmp_path / 'masks').iterdir()]
    everywhere = 100 * np.mean([mask == 1 for mask in masks]) / 3  # classes a and c: IoU 0
    assert list(map(float, scores[1:])) == pytest.approx([everywhere] * 2, abs=0.006)
    assert scores[0] != scores[1]


def test_a_checkpoint_is_trusted_on_request_only(tool, tiny_config, tmp_path, monkeypatch):
    """A stand-in for the runner reads it."""
    torch.save(dict(path=Path('x')), tmp_path / 'own.pth')  # not plain
    read = []

    class Reader:
        def __init__(self, cfg):
            self.cfg = cfg

        def test(self):
            read.append(CheckpointLoader.load_checkpoint(self.cfg.load_from))

    monkeypatch.setattr(tool, 'build_runner', Reader)
    monkeypatch.setattr(tool, 'finish', lambda: None)
    arguments = ['test.py', str(tiny_config), str(tmp_path / 'own.pth')]
    monkeypatch.setattr('sys.argv', arguments)
    with pytest.raises(pickle.UnpicklingError, match='--trust-checkpoint'):
        tool.main()
    monkeypatch.setattr('sys.argv', [*arguments, '--trust-checkpoint', arguments[-1]])
    tool.main()
    assert read == [dict(path=Path('x'))]


def test_config_of_a_resumed_run_tests_the_named_checkpoint(
        tool, tiny_config, tmp_path, monkeypatch, capfd):
    """It says resume=True, and mmengine would go on with a training that is not there."""
    cfg = Config.fromfile(tiny_config)
    cfg.update(resume=True, load_from='iter_5.pth', work_dir=str(tmp_path / 'work'))
    cfg.train_dataloader.dataset.data_root = 'gone'
    cfg.dump(tmp_path / 'resumed.py')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), tmp_path / 'it.pth')
    monkeypatch.setattr('sys.argv', ['test.py', str(tmp_path / 'resumed.py'),
                                     str(tmp_path / 'it.pth'), '--out', str(tmp_path / 'out')])
    monkeypatch.setattr(tool, 'finish', lambda: None)
    tool.main()
    # and --out keeps what was scored
    printed = ''.join(capfd.readouterr())
    predicted = {path.stem: np.array(Image.open(path)) for path in (tmp_path / 'out').iterdir()}
    assert sorted(predicted) == [str(number) for number in range(6)]
    right = [predicted[name] == np.array(Image.open(tmp_path / f'masks/{name}.png'))
             for name in predicted]
    accuracy = re.findall('aAcc: ([0-9.]+)', printed)[-1]
    assert float(accuracy) == pytest.approx(100 * np.mean(right), abs=0.006)
