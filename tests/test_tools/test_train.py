# Licensed under the Apache License, Version 2.0.
import os
import pickle
import subprocess
import sys
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from scripts import load_script

ROOT = Path(__file__).resolve().parents[2]


def tool(script, *args, cwd):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
    return subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_train_resume_and_test(tiny_config):
    """Interrupted after 4 of 8 iterations, resumed by the plain option, then evaluated."""
    here = tiny_config.parent
    first = tool(ROOT / 'tools/train.py', tiny_config.name, cwd=here)
    assert first.returncode == 0, first.stderr
    assert 'SyncBN needs GPUs' in first.stdout
    work_dir = here / 'work_dirs' / 'tiny'
    half = torch.load(work_dir / 'iter_4.pth', weights_only=True)

    options = ('--resume', '--cfg-options', 'train_cfg.max_iters=8')
    second = tool(ROOT / 'tools/train.py', tiny_config.name, *options, cwd=here)
    assert second.returncode == 0, second.stderr
    assert 'Iter(train) [5/8]' in second.stdout and 'Iter(train) [1/8]' not in second.stdout
    whole = torch.load(work_dir / 'iter_8.pth', weights_only=True)
    losses = [c['message_hub']['log_scalars']['train/loss']['log'] for c in (half, whole)]
    assert len(losses[1]) == 8 and torch.equal(losses[1][:4], losses[0])
    rates = whole['message_hub']['log_scalars']['train/lr']['log']
    expected = 0.01 * (1 - torch.arange(8, dtype=torch.float64) / 7) ** 0.9
    assert torch.allclose(rates, expected, rtol=1e-6)

    best = whole['message_hub']['runtime_info']
    tested = tool(ROOT / 'tools/test.py', tiny_config.name, best['best_ckpt'], cwd=here)
    assert tested.returncode == 0, tested.stderr
    assert f'mIoU: {best["best_score"]:.4f}' in tested.stdout


def test_stock_train_needs_custom_imports_only(tiny_config):
    text = tiny_config.read_text().replace("type='CheckpointHook'", "type='SafeCheckpointHook'")
    text += "custom_imports = dict(imports=['mmseg_reco'])\ntrain_cfg['max_iters'] = 1\n"
    tiny_config.write_text(text)
    stock = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'train.py'
    done = tool(stock, tiny_config.name, cwd=tiny_config.parent)
    assert done.returncode == 0, done.stderr
    torch.load(tiny_config.parent / 'work_dirs/tiny/iter_1.pth', weights_only=True)


def test_what_the_options_make_of_the_config(tiny_config, tmp_path, monkeypatch):
    """A stand-in for the runner reads a checkpoint in training, and the config is what it got."""
    train, work_dir = load_script(ROOT / 'tools/train.py'), tmp_path / 'work'
    tiny_config.write_text(tiny_config.read_text() + "load_from = 'pretrained.pth'\n")
    latest, own, given = work_dir / 'iter_3.pth', tmp_path / 'own.pth', []
    work_dir.mkdir()
    latest.touch()
    (work_dir / 'last_checkpoint').write_text(str(latest))
    torch.save(dict(path=Path('x')), own)  # not plain

    class Recorder:
        def __init__(self, cfg):
            given.append(cfg)

        def train(self):
            CheckpointLoader.load_checkpoint(str(own))

    for name, stand_in in dict(build_runner=Recorder, check_training=lambda runner: None,
                               finish=lambda: None).items():
        monkeypatch.setattr(train, name, stand_in)

    def cfg_of(*options, trust=('--trust-checkpoint', str(own))) -> Config:
        monkeypatch.setattr('sys.argv', [
            'train.py', str(tiny_config), '--work-dir', str(work_dir), *trust, *options])
        train.main()
        return given[-1]

    plain, other = cfg_of(), ('--cfg-options', f'load_from={own}')
    assert (plain.optim_wrapper.type, plain.get('resume', False)) == ('OptimWrapper', False)
    assert plain.load_from == 'pretrained.pth'
    assert plain.train_cfg.type == 'ResumableTrainLoop' and plain.work_dir == str(work_dir)
    assert cfg_of('--amp').optim_wrapper.type == 'CPUAmpOptimWrapper'
    for options, expected in ((('--resume', ), (True, str(latest))), (other, (False, str(own))),
                              (('--resume', *other), (True, str(own)))):
        cfg = cfg_of(*options)
        assert (cfg.get('resume', False), cfg.load_from) == expected
    with pytest.raises(pickle.UnpicklingError, match='--trust-checkpoint'):
        cfg_of(trust=())
