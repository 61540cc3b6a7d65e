# Licensed under the Apache License, Version 2.0.
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripts import load_script
from tiny_semi import write_semi_config

from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader

SCRIPT = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'show_regions.py'


@pytest.fixture
def tool():
    return load_script(SCRIPT)


@pytest.fixture
def config(tiny_config):
    path = write_semi_config(tiny_config)
    path.write_text(path.read_text().replace(
        "losses=[dict(type='ReCoLoss', num_queries=8, num_negatives=8)]",
        "losses=[dict(type='RegionMaskContrastiveLoss')]"))
    return path


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['show_regions.py', *map(str, arguments)])
    tool.main()


@pytest.mark.parametrize('threshold', [0.34, 0.])
def test_pairs_are_classes_with_the_dice_of_their_masks(tool, config, threshold):
    cfg = read_config(str(config), {'model.semi_train_cfg.weak_threshold': threshold})
    model = load_model(cfg).eval()
    drawn = tool.collect(model, training_batches(cfg, training_loader(cfg)), 3)
    assert [len(values) for values in drawn.values()] == [3] * 5
    pairs = 0
    for image, *parts in zip(*drawn.values(), strict=True):
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        teacher, student, labels, overlap = parts
        assert len(set(labels)) == len(labels) and set(labels) <= {0, 1, 2}
        for mask, soft, dice in zip(teacher, student, overlap, strict=True):
            assert set(np.unique(mask)) <= {0, 1}
            # without the teacher's doubtful pixels, so it can only be less over all pixels
            whole = (2 * (mask * soft).sum() + 1) / (mask.sum() + soft.sum() + 1)
            assert whole - 1e-5 <= dice <= 1
            if threshold == 0:  # none is doubtful
                assert dice == pytest.approx(whole, abs=1e-5)
            pairs += 1
        assert (teacher.sum(0) <= 1).all() and (student.sum(0) < 1 + 1e-5).all()
    assert pairs >= 3


def test_picture(tool, config, tmp_path, monkeypatch, capsys):
    run(tool, monkeypatch, config, '--number', 3, '--out', tmp_path / 'a' / 'regions.png')
    assert '3 images drawn to' in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / 'a' / 'regions.png'))
    assert picture.shape[1] == 960 and len(np.unique(picture)) > 20


def test_wrong_use_is_refused(tool, config, tiny_config, monkeypatch, capsys):
    for arguments, message in (
            ((tiny_config, ), 'has no region loss'),
            ((config, '--number', 0), 'at least 1'),
            ((config, '--checkpoint', 'missing.pth'), 'missing.pth'),
            (('missing.py', ), 'missing.py')):
        with pytest.raises(SystemExit) as stop:
            run(tool, monkeypatch, *arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
