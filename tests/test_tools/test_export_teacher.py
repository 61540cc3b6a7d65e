# Licensed under the Apache License, Version 2.0.
"""The way back: what stock mmseg makes of an exported network."""
import errno
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmseg.apis import MMSegInferencer, init_model
from mmseg.registry import MODELS
from tiny_segmentor import query_segmentor_config, segmentor_config
from torch.utils.data import DataLoader

from mmseg_reco.engine.launch import build_runner, use_safe_checkpoints

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools/model_converters/export_teacher.py'
STOCK_TEST = Path(mmseg.__file__).parent / '.mim/tools/test.py'
DOCS = (ROOT / 'docs/deployment.md').read_text()

TWO_STEPS = """
train_cfg.update(max_iters=2, val_interval=9)
"""
FIVE_LINES = """
_base_ = './my_data.py'
custom_imports = dict(imports=['mmseg_reco'])
model = dict(_delete_=True, type={method!r}, segmentor=_base_.model, losses={losses!r})
train_dataloader = dict(
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=2, source_ratio=[1, 1]),
    dataset=dict(_delete_=True, type='LabeledUnlabeledDataset', dataset=_base_.dataset,
                 labeled='labeled.txt', unlabeled='unlabeled.txt'))
custom_hooks = [dict(type='MeanTeacherHook', momentum=0.2)]
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(save_best='teacher/mIoU'))
"""
RECO = dict(method='MeanTeacherReCo', losses=[dict(type='ReCoLoss', num_queries=8)])
RC2L = dict(method='RC2L', losses=[dict(type='RegionFeatureContrastiveLoss')])
METRICS = ('aAcc', 'mIoU', 'mAcc')


def one_head(classes: int = 3) -> dict:
    config = segmentor_config('SyncBN', auxiliary=True)
    for head in (config.decode_head, config.auxiliary_head):
        head.num_classes = classes
    config.decode_head.loss_decode = dict(type='CrossEntropyLoss')  # average over all pixels
    config.data_preprocessor.size = (32, 32)
    return config.to_dict()


def cascade() -> dict:
    """OCRNet: a map, which objects refine."""
    config = one_head()
    first = config['decode_head']
    second = dict(first, type='OCRHead', ocr_channels=4)
    for key in ('num_convs', 'concat_input'):
        del second[key]
    return dict(config, type='CascadeEncoderDecoder', num_stages=2, decode_head=[first, second])


def queries() -> dict:
    pytest.importorskip('mmdet')
    config = query_segmentor_config()
    config.decode_head.num_classes = 3
    config.decode_head.loss_cls.class_weight = [1.] * 3 + [0.1]
    config.data_preprocessor.size = (32, 32)
    return config.to_dict()


def subset() -> dict:
    """The first and the third class of a dataset."""
    return one_head(2)


SUBSET = """
dataset.update(type='CityscapesDataset', metainfo=dict(classes=('road', 'building')))
"""


def write_configs(folder: Path, network: dict, lines: dict, more: str = '') -> None:
    """A stock config, ``my_data.py``, and the same with five lines, ``my_reco.py``."""
    text = (folder / 'tiny.py').read_text()
    (folder / 'my_data.py').write_text(f'{text}{TWO_STEPS}{more}model = {network!r}\n')
    (folder / 'my_reco.py').write_text(FIVE_LINES.format(**lines))
    (folder / 'labeled.txt').write_text('0\n1\n')
    (folder / 'unlabeled.txt').write_text('2\n3\n4\n')


@torch.no_grad()
def disturb(network: torch.nn.Module, loader: DataLoader, seed: int) -> None:
    """Random weights, with the statistics that go with them, so that maps have several classes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter += torch.randn(parameter.shape, generator=generator)
    for layer in network.modules():
        if hasattr(layer, 'running_mean'):
            layer.momentum = 1.
    images = torch.cat([network.data_preprocessor(batch)['inputs'] for batch in loader])
    network.train().forward_dense(images)
    if hasattr(network.heads[-1], 'conv_seg'):
        logits = network.class_logits(network.eval().forward_dense(images))
        network.heads[-1].conv_seg.bias -= logits.mean((0, 2, 3))


def train(config: Path) -> tuple[Runner, dict[str, float]]:
    """Two steps; then a validation and a checkpoint of networks that predict every class."""
    cfg = Config.fromfile(config)
    cfg.work_dir = str(config.parent / 'work_dirs' / config.stem)
    cfg.update(launcher='none', randomness=dict(seed=0))
    use_safe_checkpoints(cfg)
    runner = build_runner(cfg)
    runner.train()
    disturb(runner.model.teacher, runner.val_dataloader, 0)
    disturb(runner.model.student, runner.val_dataloader, 1)
    metrics = runner.val_loop.run()
    runner.save_checkpoint(cfg.work_dir, 'iter_2.pth', by_epoch=False)
    return runner, metrics


def export(*args: str | Path) -> None:
    """Run the tool in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        runpy.run_path(str(TOOL), run_name='__main__')


def stock_test(config: Path, checkpoint: Path) -> dict[str, float]:
    """What mmseg's own tools/test.py reports."""
    work_dir = checkpoint.with_suffix('')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [
            str(STOCK_TEST), str(config), str(checkpoint), '--work-dir', str(work_dir)])
        runpy.run_path(str(STOCK_TEST), run_name='__main__')
    report, = work_dir.glob('*/*.json')
    metrics = json.loads(report.read_text())
    return {name: round(metrics[name], 2) for name in METRICS}


def mean_iou(predictions: list[np.ndarray], folder: Path, given: dict[int, int]) -> float:
    """mIoU in percent, two digits, of the six images; ``given`` maps labels to classes."""
    hits, sums = np.zeros(len(given)), np.zeros(len(given))
    for index, prediction in enumerate(predictions):
        mask = cv2.imread(str(folder / f'masks/{index}.png'), cv2.IMREAD_UNCHANGED)
        known = np.isin(mask, list(given))
        for label, k in given.items():
            hits[k] += ((mask == label) & (prediction == k)).sum()
            sums[k] += (mask == label).sum() + ((prediction == k) & known).sum()
    return round(float(np.mean(hits / (sums - hits))) * 100, 2)


@pytest.mark.parametrize('network, lines, more', [
    pytest.param(one_head, RECO, '', id='one head'),
    pytest.param(cascade, RECO, '', id='cascade'),
    pytest.param(queries, RC2L, '', id='queries'),
    pytest.param(subset, RECO, SUBSET, id='subset of classes')])
def test_stock_mmseg_gives_the_same_numbers_and_logits(tiny_config, network, lines, more):
    here, stock = tiny_config.parent, network()
    write_configs(here, stock, lines, more)
    runner, metrics = train(here / 'my_reco.py')
    ours = runner.model.eval()
    printed = {name: {metric: round(float(metrics[f'{name}/{metric}']), 2) for metric in METRICS}
               for name in ('teacher', 'student')}
    assert printed['teacher'] != printed['student']
    checkpoint = here / 'work_dirs/my_reco/iter_2.pth'
    images = torch.rand(2, 3, 32, 32)
    metas = [dict(img_shape=(32, 32), pad_shape=(32, 32), batch_input_shape=(32, 32))] * 2

    for name, option in (('teacher', []), ('student', ['--student'])):
        out = here / 'out' / f'{name}.pth'
        export(checkpoint, out, *option, '--config', here / 'my_reco.py')
        exported = torch.load(out, weights_only=True)
        assert set(exported) == {'meta', 'state_dict'}
        for config in (here / 'my_data.py', out.with_suffix('.py')):
            model = init_model(str(config), str(out), device='cpu')
            # torch.matmul has another order of sums for weights that ask for a gradient
            model.requires_grad_(name == 'student')
            assert type(model).__name__ == stock['type']
            assert model.state_dict().keys() == exported['state_dict'].keys()
            with torch.no_grad():
                own = getattr(ours, name).encode_decode(images, metas)
                assert torch.equal(model.encode_decode(images, metas), own)
            assert model.dataset_meta['classes'] == runner.train_dataloader.dataset.metainfo[
                'classes']

        assert stock_test(here / 'my_data.py', out) == printed[name]
        inferencer = MMSegInferencer(str(out.with_suffix('.py')), str(out), device='cpu')
        predictions = inferencer([str(here / f'images/{i}.png') for i in range(6)])['predictions']
        assert len(np.unique(predictions)) > 1
        given = {0: 0, 2: 1} if more else {0: 0, 1: 1, 2: 2}
        assert mean_iou(predictions, here, given) == printed[name]['mIoU']


# The commands of docs/deployment.md -----------------------------------------------------------


def code_blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', DOCS, re.DOTALL)


def shell(command: str, folder: Path, *missing: str) -> str:
    """Run a command of the docs as it stands there, where some packages are not installed."""
    for name in missing:
        (folder / 'missing' / name).mkdir(parents=True, exist_ok=True)
        (folder / f'missing/{name}/__init__.py').write_text(
            f'raise ModuleNotFoundError("No module named {name}", name={name!r})')
    paths = [str(folder / 'missing')] + ([] if 'mmseg_reco' in missing else [str(ROOT)])
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths),
               PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    done = subprocess.run(['bash', '-ec', command], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_of_the_docs(tiny_config, monkeypatch):
    for name in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(name)
    here = tiny_config.parent
    write_configs(here, one_head(), RECO)
    _, metrics = train(here / 'my_reco.py')
    (here / 'work_dirs/my_reco/iter_2.pth').rename(here / 'work_dirs/my_reco/iter_20000.pth')
    shutil.copy(here / 'images/0.png', here / 'image.png')
    (here / 'tools').symlink_to(ROOT / 'tools')
    monkeypatch.chdir(here)

    export_command, test_command = code_blocks('bash')
    shell(export_command, here, 'mmdet')
    assert Config.fromfile('teacher.py').get('custom_imports') is None
    tested = shell(test_command, here, 'mmdet', 'mmseg_reco')
    assert re.findall(r' mIoU: ([\d.]+)', tested) == [f'{metrics["teacher/mIoU"]:.4f}']

    session = {}
    for block in code_blocks('python'):
        exec(block.replace('(512, 512)', '(32, 32)'), session)
    names = {path.relative_to(here / 'predictions').as_posix()
             for path in (here / 'predictions').glob('*/*')}
    assert names == {'vis/image.png', 'pred/00000000_pred.png'}
    prediction = cv2.imread(str(here / 'predictions/pred/00000000_pred.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(prediction, session['labels'].numpy())
    logits = session['logits'].numpy()
    assert logits.std() > 0.1
    np.testing.assert_allclose(session['onnx_logits'][0], logits, atol=1e-5 * abs(logits).max())
    assert (session['onnx_labels'] == prediction).mean() > 0.99


@pytest.mark.parametrize('network', [cascade, queries])
def test_other_networks_go_to_onnx_too(network, tmp_path, monkeypatch):
    for name in ('onnx', 'onnxscript'):
        pytest.importorskip(name)
    onnxruntime = pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(network())).eval()
    module, = (block for block in code_blocks('python') if 'torch.onnx.export' in block)
    session = dict(model=model)
    exec(module.replace('(512, 512)', '(32, 32)'), session)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected = session['Network'](model)(images).numpy()
    onnx = onnxruntime.InferenceSession('teacher.onnx')
    found, = onnx.run(['logits'], dict(images=images.numpy()))
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


# Other checkpoints, and what is wrong -----------------------------------------------------------

NETWORK = {'backbone.w': torch.ones(2), 'decode_head.w': torch.ones(3)}
PAIR = {f'{name}.{key}': value for name in ('student', 'teacher')
        for key, value in NETWORK.items()}


class Attack:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path('victim'), )


def fails(capsys: pytest.CaptureFixture, *args: str | Path) -> str:
    """The message of a run that must end with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        export(*args)
    assert caught.value.code == 2
    return ' '.join(capsys.readouterr().err.split())


def test_a_supervised_checkpoint_becomes_plain(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict={**NETWORK, 'projector.w': torch.ones(1)}, meta={}), 'run.pth')
    export('run.pth', 'net.pth')
    assert list(torch.load('net.pth', weights_only=True)['state_dict']) == list(NETWORK)
    said = capsys.readouterr().out
    assert 'no teacher' in said and 'names no classes' in said and 'net.pth' in said
    assert 'no student' in fails(capsys, 'run.pth', 'student.pth', '--student')


def test_wrong_input_is_named_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=PAIR), 'pair.pth')
    torch.save(dict(state_dict={'conv1.weight': torch.ones(1)}), 'resnet.pth')
    torch.save(dict(state_dict=PAIR, hub=Attack()), 'foreign.pth')
    Path('text.pth').write_text('# a config, say')
    Path('taken.pth').write_text('keep')
    Path('taken.py').write_text('keep')
    Path('detector.py').write_text('model = dict(type="FasterRCNN")')
    before = sorted(tmp_path.iterdir())

    assert 'No such checkpoint: gone.pth' in fails(capsys, 'gone.pth', 'out.pth')
    assert 'names begin with conv1' in fails(capsys, 'resnet.pth', 'out.pth')
    assert 'text.pth is no checkpoint' in fails(capsys, 'text.pth', 'out.pth')
    assert '--trust-checkpoint foreign.pth' in fails(capsys, 'foreign.pth', 'out.pth')
    assert 'taken.pth exists already' in fails(capsys, 'pair.pth', 'taken.pth')
    assert 'taken.py exists already' in fails(
        capsys, 'pair.pth', 'taken.new', '--config', 'detector.py')
    assert 'cannot end in .py' in fails(capsys, 'detector.py', 'pair.py')
    assert 'no such config file: gone.py' in fails(
        capsys, 'pair.pth', 'out.pth', '--config', 'gone.py')
    assert 'detector.py is no config of a segmentor' in fails(
        capsys, 'pair.pth', 'out.pth', '--config', 'detector.py')
    assert 'could not be written' in fails(capsys, 'pair.pth', 'text.pth/out.pth')
    assert sorted(tmp_path.iterdir()) == before
    assert Path('taken.pth').read_text() == 'keep'

    export('foreign.pth', 'out.pth', '--trust-checkpoint', 'foreign.pth')
    assert set(torch.load('out.pth', weights_only=True)['state_dict']) == set(NETWORK)


def test_a_config_of_other_classes_is_refused(tiny_config, capsys):
    here = tiny_config.parent
    network = MODELS.build(one_head(2)).state_dict()
    torch.save(dict(state_dict={f'teacher.{key}': value for key, value in network.items()}),
               here / 'pair.pth')
    write_configs(here, one_head(3), RECO)
    said = fails(capsys, here / 'pair.pth', here / 'out.pth', '--config', here / 'my_reco.py')
    assert 'num_classes=2' in said
    assert not (here / 'out.pth').exists() and not (here / 'out.py').exists()


def test_a_full_disk_leaves_no_half_file(tmp_path, capsys, monkeypatch):
    torch.save(dict(state_dict=PAIR), tmp_path / 'pair.pth')

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    said = fails(capsys, tmp_path / 'pair.pth', tmp_path / 'out.pth')
    assert said.endswith('out.pth could not be written: No space left on device')
    assert [path.name for path in tmp_path.iterdir()] == ['pair.pth']
