# Licensed under the Apache License, Version 2.0.
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import load_script

from mmseg_reco.engine import ClassHistory, PseudoLabelHistory

SCRIPT = Path(__file__).parents[2] / 'tools/analysis_tools/draw_classes.py'
CLASSES, PALETTE = np.array(list('abc')), np.array([[0, 0, 255], [90, 90, 90], [200, 0, 0]])


@pytest.fixture
def draw(monkeypatch, capsys):
    module = load_script(SCRIPT)

    def run(*arguments):
        """Exit code, output and errors."""
        monkeypatch.setattr('sys.argv', ['draw_classes.py', *map(str, arguments)])
        try:
            module.main()
        except SystemExit as stop:
            return stop.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


@pytest.fixture
def work_dir(tmp_path):
    """A run that was interrupted after its second record, with one class never seen."""
    prototypes = np.random.default_rng(0).normal(size=(2, 3, 4))
    prototypes /= np.linalg.norm(prototypes, axis=-1, keepdims=True)
    relations = prototypes @ prototypes.transpose(0, 2, 1)
    relations[:, 1], relations[:, :, 1], prototypes[:, 1] = np.nan, np.nan, np.nan
    ClassHistory(CLASSES, PALETTE, np.array([1, 5]), relations, np.isfinite(relations).astype(int),
                 prototypes).save(tmp_path)
    counts = np.array([[[9, 9, 0], [4, 5, 0], [3, 5, 0], [8, 8, 2]]] * 2)
    PseudoLabelHistory(CLASSES, PALETTE, np.array([1, 5]), counts, np.array([0.7, 0.9]),
                       np.array(2)).save(tmp_path)
    return tmp_path


def test_everything_that_was_kept_is_drawn(draw, work_dir, tmp_path):
    code, printed, errors = draw(work_dir, '--out', tmp_path / 'new' / 'pictures')
    assert code == 0, errors
    names = ['class_embeddings', 'class_relation', 'class_relation_history',
             'pseudo_label_quality']
    assert sorted(path.stem for path in (tmp_path / 'new/pictures').iterdir()) == names
    for name in names:
        path = tmp_path / 'new/pictures' / f'{name}.png'
        assert f'{path}: 2 records, up to iteration 5' in printed
        with Image.open(path) as picture:
            assert picture.width > 300 and len(np.unique(np.asarray(picture.convert('L')))) > 20


def test_a_folder_without_history_or_with_a_torn_one_is_refused(draw, work_dir):
    code, _, errors = draw(work_dir / 'nowhere')
    assert code == 2 and 'class_history.npz nor pseudo_label_quality.npz' in errors
    file = work_dir / 'class_history.npz'
    other = work_dir / 'pseudo_label_quality.npz'
    for content in (file.read_bytes()[:200], b'', b'text', other.read_bytes()):
        file.write_bytes(content)
        code, _, errors = draw(work_dir)
        assert code == 2 and f'{file} cannot be read' in errors
