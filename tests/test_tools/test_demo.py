# Licensed under the Apache License, Version 2.0.
import functools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import load_script

from mmseg_reco.datasets.demo_scenes import CLASSES, WIDTH

SCRIPT = Path(__file__).parents[2] / 'tools' / 'demo.py'


@pytest.fixture
def demo():
    return load_script(SCRIPT)


def test_the_whole_demo_prints_its_table_and_draws_its_pictures(
    demo, tmp_path, monkeypatch, capsys
):
    small = functools.partial(demo.prepare, num_train=20, num_val=10, num_labeled=6)
    monkeypatch.setattr(demo, 'prepare', small)
    monkeypatch.setattr('sys.argv', ['demo.py', '--out', str(tmp_path), '--iters', '25'])
    monkeypatch.setenv('DEMO_DATA_ROOT', '')  # main sets it; pytest puts it back
    demo.main()

    printed = capsys.readouterr().out
    assert len(re.findall(r'iteration +25/25 +loss [\d.]+ +0:00:00 left\n', printed)) == 2
    lines = printed.splitlines()
    header = next(i for i, line in enumerate(lines) if line.split()[:1] == ['supervised'])
    rows = lines[header + 1 : header + 2 + len(CLASSES)]
    table = {name: values for name, *values in map(str.split, rows)}
    assert list(table) == ['mean', *CLASSES]
    scores = np.array([table[name] for name in CLASSES], float)
    assert scores.shape == (len(CLASSES), 3)
    assert (scores >= 0).all() and (scores <= 100).all()
    np.testing.assert_allclose(np.array(table['mean'], float), scores.mean(0), atol=0.11)

    for name, columns in (('training_scenes', 5), ('validation_scenes', 4)):
        with Image.open(tmp_path / f'{name}.png') as picture:
            pixels = np.asarray(picture.convert('RGB'))
        assert pixels.shape[1] > 2 * columns * WIDTH
        # every column shows something else
        strips = np.array_split(pixels[60:-60], columns, axis=1)
        width = min(strip.shape[1] for strip in strips)
        strips = np.stack([strip[:, :width].astype(int) for strip in strips])
        distance = np.abs(strips[:, None] - strips[None]).mean((2, 3, 4))
        assert distance[~np.eye(columns, dtype=bool)].min() > 1
    with Image.open(tmp_path / 'class_relation.png') as picture:
        assert len(np.unique(np.asarray(picture.convert('L')))) > 20


def test_a_failed_training_ends_the_demo_with_its_last_words(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(demo.METHODS, 'supervised', 'no_such_config.py')
    with pytest.raises(SystemExit, match='no_such_config'):
        demo.train('supervised', tmp_path, seed=0, iters=1)
    assert 'no_such_config' in (tmp_path / 'output.txt').read_text()


def test_scores_are_those_of_the_confusion_matrix(demo):
    rng = np.random.default_rng(0)
    truth = [rng.integers(0, len(CLASSES), (6, 7)).astype(np.uint8) for _ in range(3)]
    predictions = [rng.integers(0, len(CLASSES), (6, 7)).astype(np.uint8) for _ in range(3)]
    truth[0][0] = 255
    expected = []
    for c in range(len(CLASSES)):
        pairs = [
            (p == c, t == c)
            for prediction, label in zip(predictions, truth, strict=True)
            for p, t in zip(prediction.ravel(), label.ravel(), strict=True)
            if t != 255
        ]
        expected.append(100 * sum(p and t for p, t in pairs) / sum(p or t for p, t in pairs))
    np.testing.assert_allclose(demo.class_iou(predictions, truth), expected, rtol=1e-4)
