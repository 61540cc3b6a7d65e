# Licensed under the Apache License, Version 2.0.
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scripts import load_script
from tiny_semi import write_semi_config

from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader

SCRIPT = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'show_sampling.py'


UNIMATCH = {'model.semi_train_cfg.strong_views': 2, 'model.semi_train_cfg.feature_dropout': 0.5}


@pytest.fixture
def tool():
    return load_script(SCRIPT)


def one_step(tool, path, **changes):
    cfg = read_config(str(path))
    cfg.merge_from_dict(changes)
    model = load_model(cfg).train()
    batch = next(training_batches(cfg, training_loader(cfg)))
    return model, tool.record(model, batch), cfg


def test_queries_are_hard_pixels_of_their_class_and_keys_of_other_classes(tool, tiny_config):
    path = write_semi_config(tiny_config)
    model, draws, _ = one_step(tool, path, **{'model.semi_train_cfg.burn_in': 99})
    assert draws.images.shape == (4, 3, 32, 32)
    assert draws.queries.shape == (3, 8) and draws.negatives.shape == (3, 8, 8)
    labels = draws.labels.flatten()
    probs = draws.probs.movedim(1, -1).reshape(-1, 3)
    active = draws.active.nonzero().flatten().tolist()
    assert len(active) >= 2
    for c in active:
        for q in range(8):
            pixel = draws.queries[c, q]
            assert labels[pixel] == c and probs[pixel, c] < 0.97
            keys = labels[draws.negatives[c, q]]
            assert (keys != c).all() and (keys < 3).all()
    # the labelled half has its labels, at the size of the representations
    size = draws.labels.shape[-1]
    step = 32 // size
    sup = sorted((i, sample) for i, sample in enumerate(draws.labels[:2]))
    masks = {int(i): cv2.imread(str(path.parent / 'masks' / f'{i}.png'), 0) for i in range(3)}
    for _, shown in sup:
        assert any((shown.numpy() == mask[step // 2::step, step // 2::step]).mean() > 0.9
                   for mask in masks.values())


@pytest.mark.parametrize('joint', [True, False])
def test_images_are_those_of_the_contrast_beside_views_of_another_kind(tool, tiny_config, joint):
    changes = {**UNIMATCH, 'model.semi_train_cfg.joint_forward': joint, 'model.mix': None}
    _, draws, _ = one_step(tool, write_semi_config(tiny_config), **changes)
    assert draws.images.shape[0] == draws.labels.shape[0] == 2 + 2 * 2
    # not mixed: both strong views are the weak one, whose images are not labelled
    assert torch.equal(draws.images[2:4], draws.images[4:])
    assert not torch.equal(draws.images[:2], draws.images[2:4])


def test_dots_are_drawn_where_the_pixels_are(tool):
    labels = torch.tensor([[[0, 1], [1, 0]], [[1, 1], [255, 0]]])
    draws = tool.Draws(None, labels, None, None, None, None)
    pictures = [np.zeros((8, 12, 3), np.uint8)] * 2
    first, second = tool.dots_of(torch.tensor([1, 7, 1, 4]), draws, pictures, star=4)
    assert first.places.tolist() == [[1.5, 8.5]] and first.labels.tolist() == [1]
    assert second.places.tolist() == [[1.5, 2.5], [5.5, 8.5]]
    assert second.labels.tolist() == [1, 0]
    assert first.star is None and second.star == 0


def test_probability_is_that_of_the_label(tool):
    probs = torch.tensor([[.2, .5], [.8, .5]])[None, :, None].expand(1, 2, 1, 2)
    draws = tool.Draws(None, torch.tensor([[[1, 255]]]), probs, None, None, None)
    own = tool.own_probability(draws, 255)
    assert own[0, 0, 0] == pytest.approx(.8) and np.isnan(own[0, 0, 1])


def test_table_against_counting(tool):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 5, 6), generator=generator)]
    probs = torch.rand(2, 4, 5, 6, generator=generator)
    labels[0, 0, 0], probs[0, 0, 0, 0] = 0, 0.4  # at the threshold is not below it
    valid = (labels.flatten() < 3).nonzero().flatten()
    draws = tool.Draws(
        None, labels, probs, torch.randint(9, (4, 8), generator=generator),
        torch.tensor([True, False, True, False]),
        valid[torch.randint(len(valid), (4, 8, 5), generator=generator)])
    rows = tool.table_of(draws, 'abcd', 2, 0.4).rows
    pixels = list(zip(labels.flatten().tolist(), probs.movedim(1, -1).reshape(-1, 4).tolist(),
                      strict=True))
    keys = [pixels[key][0] for key in draws.negatives[2].flatten().tolist()]
    for c, row in enumerate(rows):
        mine = [own[c] for label, own in pixels if label == c]
        below = 100 * sum(value < 0.4 for value in mine) / max(len(mine), 1)
        queries = len(set(draws.queries[c].tolist())) if c in (0, 2) else 0
        assert row == ['abcd'[c], len(mine), f'{below:.1f}', queries,
                       f'{100 * keys.count(c) / 40:.1f}']
    assert rows[3][1] == 0 < rows[0][1]


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr('sys.argv', ['show_sampling.py', *map(str, arguments)])
    tool.main()


def test_picture_and_table(tool, tiny_config, tmp_path, monkeypatch, capsys):
    path, out = write_semi_config(tiny_config), tmp_path / 'sampling.png'
    run(tool, monkeypatch, path, '--class', 'b', '--number', 2, '--out', out)
    printed = capsys.readouterr().out
    assert 'keys of b (%)' in printed and str(out) in printed
    rows = {cells[0]: cells[1:] for cells in (
        [cell.strip() for cell in line.split('|')[1:-1]] for line in printed.splitlines()) if cells}
    assert float(rows['b'][3]) == 0
    assert sum(float(rows[name][3]) for name in 'abc') == pytest.approx(100, abs=0.2)
    picture = cv2.imread(str(out))
    assert picture.shape[1] == 960 and len(np.unique(picture)) > 20


@pytest.mark.parametrize('outside', [False, True])
def test_a_supervised_model_with_reco_works_too(tool, tiny_config, outside):
    text = tiny_config.read_text().replace(
        "type='EncoderDecoder',",
        "type='EmbeddingEncoderDecoder', projector=dict(channels=8, embed_dims=8), "
        "losses=[dict(type='ReCoLoss', num_queries=4, num_negatives=5)],")
    if outside:  # mmengine hands the preprocessor to a model that has none
        text += "\ndata_preprocessor = model.pop('data_preprocessor')\n"
    tiny_config.write_text(text)
    model, draws, cfg = one_step(tool, tiny_config)
    assert len(draws.images) == 2 and draws.negatives.shape == (3, 4, 5)
    images = tool.images_of(model, draws.images, cfg)
    files = [cv2.imread(str(tiny_config.parent / 'images' / f'{i}.png'))[..., ::-1]
             for i in range(6)]
    assert all(any((image == file).all() for file in files) for image in images)


def test_wrong_use_is_refused(tool, tiny_config, monkeypatch, capsys):
    path = write_semi_config(tiny_config)
    for arguments, message in (
            ((tiny_config, ), 'has no ReCoLoss'),
            ((path, '--class', 'zebra'), 'the classes are a, b, c'),
            ((path, '--number', 0), 'at least 1'),
            (('missing.py', ), 'missing.py')):
        with pytest.raises(SystemExit) as stop:
            run(tool, monkeypatch, *arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
