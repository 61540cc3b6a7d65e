# Licensed under the Apache License, Version 2.0.
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scripts import load_script
from tiny_semi import write_semi_config

from mmseg_reco.datasets.demo_scenes import PALETTE, prepare
from mmseg_reco.engine.offline import load_model, read_config, training_loader

SCRIPT = Path(__file__).parents[2] / 'tools' / 'browse.py'
DEMO = 'configs/demo/deeplabv3plus_r18-d16_demo-p0_reco-classmix.py'


@pytest.fixture
def browse():
    return load_script(SCRIPT)


def on_disk(folder, name):
    image = cv2.imread(str(folder / 'images' / name))[..., ::-1]
    return image, cv2.imread(str(folder / 'masks' / name), cv2.IMREAD_GRAYSCALE)


def collect(browse, path, number, checkpoint=None):
    cfg = read_config(str(path))
    return browse.collect(cfg, training_loader(cfg), number, checkpoint, ())


@pytest.mark.parametrize('outside', [False, True])
def test_a_supervised_config_shows_images_and_labels_as_they_are(browse, tiny_config, outside):
    if outside:  # mmengine hands the preprocessor to a model that has none
        tiny_config.write_text(
            f"{tiny_config.read_text()}\ndata_preprocessor = model.pop('data_preprocessor')\n")
    panels = collect(browse, tiny_config, 5)
    assert list(panels) == ['labeled']
    panel = panels['labeled']
    assert len(panel['file']) == 5 and len(set(panel['file'])) > 2
    for name, image, labels in zip(
            panel['file'], panel['image, as fed'], panel['given labels'], strict=True):
        expected, mask = on_disk(tiny_config.parent, name)
        assert (image == expected).all() and (labels == mask).all()


def test_strong_views_are_the_segmentors_own(browse, tiny_config):
    path = write_semi_config(tiny_config)
    with path.open('a') as file:  # so that images can be labelled one by one
        file.write("model['semi_train_cfg']['teacher_batch_stats'] = False\n")
    panel = collect(browse, path, 2)['unlabeled']
    assert list(panel)[3] == 'strong view\n(CutMix)'
    teacher = load_model(read_config(str(path))).teacher.eval()
    weak, given, pseudo, strong, strong_pseudo, confidence, files = panel.values()
    for i in range(2):
        image, _ = on_disk(path.parent, files[i])
        assert files[i] in ('3.png', '4.png', '5.png')
        assert (weak[i] == image).all() and (given[i] == 255).all()
        with torch.no_grad():
            inputs = torch.from_numpy(image[..., ::-1] / 255.).permute(2, 0, 1)[None].float()
            probs = teacher.encode_decode(inputs, [dict(img_shape=(32, 32))]).softmax(1)[0]
        assert np.abs(pseudo[i].confidence - probs.max(0).values.numpy()).max() < 1e-5
        assert (pseudo[i].labels == probs.argmax(0).numpy()).mean() > 0.99
        # CutMix: a box from the other image of the batch, with its labels and confidence
        other = (strong[i] == weak[1 - i]).all(-1)
        own = (strong[i] == weak[i]).all(-1)
        assert (own | other).all() and 0.3 < (~own).mean() < 0.6
        for of_strong, of_weak in (
                (strong_pseudo[i].labels, [part.labels for part in pseudo]),
                (confidence[i], [part.confidence for part in pseudo])):
            assert (of_strong == np.where(own, of_weak[i], of_weak[1 - i])).mean() > 0.99
        assert pseudo[i].threshold == 0.34


def test_every_strong_view_has_its_columns(browse, tiny_config):
    path = write_semi_config(tiny_config)
    with path.open('a') as file:
        file.write("model['semi_train_cfg']['strong_views'] = 2\n")
    panel = collect(browse, path, 2)['unlabeled']
    first, second = panel['strong view 1\n(CutMix)'], panel['strong view 2\n(CutMix)']
    assert len(first) == len(second) == 2
    for i, weak in enumerate(panel['weak view']):
        other = panel['weak view'][1 - i]
        for view in (first[i], second[i]):
            assert ((view == weak) | (view == other)).all()
        assert (first[i] != second[i]).any()
    assert {'pseudo-labels of\nstrong view 2', 'confidence 2\n(black 0, white 1)'} <= set(panel)


@pytest.fixture
def demo_data(tmp_path, monkeypatch):
    prepare(str(tmp_path / 'data'), num_train=8, num_val=1, num_labeled=4)
    monkeypatch.setenv('DEMO_DATA_ROOT', str(tmp_path / 'data'))


def run(browse, monkeypatch, *arguments):
    monkeypatch.setattr('sys.argv', ['browse.py', *map(str, arguments)])
    browse.main()


def test_the_demo_works_out_of_the_box(browse, demo_data, tmp_path, monkeypatch, capsys):
    run(browse, monkeypatch, DEMO, '--number', 2, '--out', tmp_path / 'a')
    printed = capsys.readouterr().out
    assert '2 labeled images drawn to' in printed and '2 unlabeled images drawn to' in printed
    labeled = cv2.imread(str(tmp_path / 'a' / 'labeled.png'))[..., ::-1]
    given = labeled[34:-70, 240:].reshape(-1, 3)
    grey = np.isin(given, (176, 208)).all(1).mean()
    assert 0.7 < grey < 0.97  # two scenes with a few enlarged pixels, and text over them
    seen = [colour for colour in PALETTE[:-1] if (given == colour).all(1).sum() >= 12]
    assert len(seen) >= 2
    unlabeled = cv2.imread(str(tmp_path / 'a' / 'unlabeled.png'))
    assert unlabeled.shape[1] == 960

    run(browse, monkeypatch, DEMO, '--number', 2, '--out', tmp_path / 'b')
    for name in ('labeled', 'unlabeled'):
        a, b = ((tmp_path / folder / f'{name}.png').read_bytes() for folder in 'ab')
        assert a == b
    run(browse, monkeypatch, DEMO, '--number', 2, '--out', tmp_path / 'b', '--cfg-options',
        'randomness.seed=1')
    assert (tmp_path / 'b' / 'labeled.png').read_bytes() != (
        tmp_path / 'a' / 'labeled.png').read_bytes()


@pytest.mark.parametrize('config', [DEMO, DEMO.replace('reco-classmix', 'supervised')])
def test_missing_data_are_named(browse, config, monkeypatch, capsys):
    monkeypatch.setenv('DEMO_DATA_ROOT', 'no/such/folder')
    with pytest.raises(SystemExit) as stop:
        run(browse, monkeypatch, config)
    assert stop.value.code == 2
    assert 'no/such/folder/labeled.txt' in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_no_success(
        browse, tiny_config, tmp_path, monkeypatch, capsys):
    (tmp_path / 'labeled.png').mkdir()
    with pytest.raises(SystemExit) as stop:
        run(browse, monkeypatch, tiny_config, '--out', tmp_path)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and f'{tmp_path / "labeled.png"} could not be' in printed.err
    assert 'drawn to' not in printed.out


def test_wrong_use_is_refused(browse, tiny_config, monkeypatch, capsys):
    for arguments, message in (
            ((tiny_config, '--number', 0), 'at least 1'),
            ((tiny_config, '--checkpoint', 'x.pth'), 'EncoderDecoder has none'),
            ((write_semi_config(tiny_config), '--checkpoint', 'x.pth'), 'No such checkpoint'),
            (('missing.py', ), 'missing.py')):
        with pytest.raises(SystemExit) as stop:
            run(browse, monkeypatch, *arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
