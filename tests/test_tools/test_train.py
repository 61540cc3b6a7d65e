# Licensed under the Apache License, Version 2.0.
import os
import subprocess
import sys
from pathlib import Path

import mmseg
import torch

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
