# Licensed under the Apache License, Version 2.0.
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from scripts import load_script
from tiny_segmentor import query_segmentor_config
from tiny_semi import write_semi_config

from mmseg_reco.engine.launch import batch_norm_for_cpu
from mmseg_reco.engine.offline import load_model, read_config

SCRIPT = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'compare.py'


@pytest.fixture
def compare():
    return load_script(SCRIPT)


def class_ious(prediction, truth, num_classes):
    """IoU of each class by counting pixels one by one; None for a class that is nowhere."""
    pairs = [pair for pair in zip(prediction.ravel(), truth.ravel(), strict=True) if pair[1] != 255]
    result = []
    for c in range(num_classes):
        union = sum(c in pair for pair in pairs)
        result.append(100 * sum(pair == (c, c) for pair in pairs) / union if union else None)
    return result


def test_scores_are_those_of_counting_pixels(compare):
    rng = np.random.default_rng(0)
    truth = [rng.choice([0, 1, 255], (5, 6)), rng.choice([1, 2], (5, 6))]
    predictions = [rng.integers(0, 4, (5, 6)), rng.integers(0, 3, (5, 6))]
    area = np.stack([
        compare.areas(p, t, 4) for p, t in zip(predictions, truth, strict=True)])
    for row, p, t in zip(compare.iou(area), predictions, truth, strict=True):
        expected = class_ious(p, t, 4)
        np.testing.assert_allclose(row, [np.nan if v is None else v for v in expected], rtol=1e-5)
    both = class_ious(np.stack(predictions), np.stack(truth), 4)
    np.testing.assert_allclose(compare.iou(area.sum(0)), both, rtol=1e-5)
    # of one image: the classes that its ground truth has
    first, second = (class_ious(p, t, 4) for p, t in zip(predictions, truth, strict=True))
    np.testing.assert_allclose(
        compare.image_miou(area), [np.mean(first[:2]), np.mean(second[1:3])], rtol=1e-5)


def test_the_most_different_images_come_first_then_random_others(compare):
    difference = np.array([0, -9, 2, np.nan, 7, 1, 0.5])
    chosen = compare.choose(difference, 3, 2, seed=0)
    assert chosen[:3] == [1, 4, 2]
    assert len(set(chosen)) == 5 and chosen[3] < chosen[4]
    assert chosen == compare.choose(difference, 3, 2, seed=0)
    assert len({tuple(compare.choose(difference, 3, 2, seed=seed)[3:]) for seed in range(9)}) > 2
    assert sorted(compare.choose(difference, 9, 9, seed=0)) == list(range(7))


def test_the_difference_map_says_who_is_right(compare):
    truth = np.array([[1, 1, 1, 1, 255]])
    shown = compare.difference_map(np.array([[1, 0, 1, 0, 1]]), np.array([[0, 1, 1, 2, 0]]), truth)
    assert [tuple(pixel) for pixel in shown[0, :4].tolist()] == [
        compare._ONLY_A, compare._ONLY_B, compare._BOTH, compare._NEITHER]
    assert len(set(shown[0, 4].tolist())) == 1  # grey


@pytest.fixture
def checkpoints(tiny_config, tmp_path):
    """Two random models, each in a folder with its config, as training leaves them."""
    paths = []
    for name, seed in (('first', 3), ('second', 4)):
        folder = tmp_path / 'runs' / name
        folder.mkdir(parents=True)
        cfg = read_config(str(tiny_config), {'randomness.seed': seed})
        model = load_model(cfg).eval()
        with torch.no_grad():  # no class is always ahead
            images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            logits = model.encode_decode(images, [dict(img_shape=(32, 32))] * 2)
            model.decode_head.conv_seg.bias -= logits.mean((0, 2, 3))
        torch.save(dict(state_dict=model.state_dict()), folder / 'iter_1.pth')
        cfg.dump(folder / 'tiny.py')
        paths.append(folder / 'iter_1.pth')
    return paths


def run(compare, monkeypatch, *arguments):
    monkeypatch.setattr('sys.argv', ['compare.py', *map(str, arguments)])
    compare.main()


def test_the_table_has_the_scores_of_validation(
        compare, checkpoints, tiny_config, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    run(compare, monkeypatch, *checkpoints, '--most', 2, '--random', 1, '--out', out)
    printed = capsys.readouterr()
    assert '6/6' in printed.err
    assert str(out / 'comparison.png') in printed.out
    lines = (out / 'comparison.txt').read_text().splitlines()
    assert all(line in printed.out for line in lines)
    rows = {cells[0]: cells[1:] for cells in (
        [cell.strip() for cell in line.split('|')[1:-1]] for line in lines) if cells}
    assert rows['IoU (%)'] == ['first', 'second', 'difference']
    assert list(rows)[1:] == ['a', 'b', 'c', 'mean']
    for column, checkpoint in enumerate(checkpoints):
        cfg = read_config(str(tiny_config), dict(load_from=str(checkpoint)))
        cfg.work_dir = str(tmp_path / 'val')
        batch_norm_for_cpu(cfg)
        metrics = Runner.from_cfg(cfg).test()
        assert float(rows['mean'][column]) == pytest.approx(metrics['mIoU'], abs=0.011)
        mean = np.mean([float(rows[name][column]) for name in 'abc'])
        assert mean == pytest.approx(metrics['mIoU'], abs=0.011)
    first, second, difference = map(float, rows['a'])
    assert difference == pytest.approx(second - first, abs=0.011) and rows['a'][2][0] in '+-'


def test_the_model_that_is_ahead_is_named(
        compare, checkpoints, tiny_config, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(compare, 'draw_panel', lambda *args: drawn.append(args[5]) or args[0])
    monkeypatch.setattr(compare, 'save_picture', lambda picture, path: path.parent.mkdir())
    run(compare, monkeypatch, *checkpoints, '--most', 6, '--out', tmp_path / 'out')
    sides = [compare.Side(read_config(str(tiny_config)), str(path), ()) for path in checkpoints]
    scores = {}
    for index in range(6):
        sample, _ = sides[0].predict(index)
        truth = sample['data_samples'].gt_sem_seg.data[0].numpy()  # all classes are in every image
        scores[Path(sample['data_samples'].img_path).name] = [
            np.mean(class_ious(side.predict(index)[1], truth, 3)) for side in sides]
    wins = [sum(a > b for a, b in scores.values()), sum(a < b for a, b in scores.values())]
    assert wins[0] != wins[1] and sum(wins) == 6
    assert (f'Of 6 images first is ahead in {wins[0]}, second in {wins[1]}.'
            in capsys.readouterr().out)
    (labels, ) = drawn
    assert len(labels) == 6
    for label in labels:
        name, *numbers, ahead = re.fullmatch(r'differs most: (.+?)   mIoU first (.+), second (.+)'
                                             r'   \((.+) for (.+)\)', label).groups()
        a, b = scores.pop(name)
        assert [float(number) for number in numbers] == pytest.approx([a, b, abs(a - b)], abs=0.051)
        assert ahead == ('first' if a > b else 'second')
    compare.draw(sides, ['first', 'second'], range(3), 3, np.array([[9., 1., 5.], [2., 7., 5.]]))
    assert [label[label.rindex('('):] for label in drawn[1]] == [
        '(7.0 for first)', '(6.0 for second)', '(0.0 for neither)']


def test_the_picture_shows_image_truth_and_both_predictions(
        compare, checkpoints, tiny_config, tmp_path, monkeypatch):
    colours = '[(200,30,30),(30,120,220),(255,220,0)]'
    run(compare, monkeypatch, *checkpoints, '--most', 1, '--random', 0, '--out', tmp_path,
        '--cfg-options', f'val_dataloader.dataset.metainfo.palette={colours}')
    colours = np.array([(200, 30, 30), (30, 120, 220), (255, 220, 0)])
    picture = cv2.imread(str(tmp_path / 'comparison.png'))[..., ::-1].astype(int)
    top = 34 + 24
    sides = [compare.Side(read_config(str(tiny_config)), str(path), ()) for path in checkpoints]
    area = compare.measure(sides, 3)
    scores = [compare.image_miou(part) for part in area]
    index = int(np.abs(scores[0] - scores[1]).argmax())
    sample, first = sides[0].predict(index)
    _, second = sides[1].predict(index)
    truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
    assert len(np.unique(first)) > 1 and (first != second).any()
    for column, labels in ((1, truth), (2, first), (3, second)):
        for y, x in ((2, 3), (16, 28), (30, 20)):
            # the middle of that pixel of the map, 6 x 6 in the picture
            at = picture[top + 6 * y + 3, 192 * column + 6 * x + 3]
            assert (at == colours[labels[y, x]]).all()


def test_teacher_and_student_models_predict_as_configured(compare, tiny_config, tmp_path):
    path = str(write_semi_config(tiny_config))
    torch.save(dict(state_dict=load_model(read_config(path)).state_dict()), tmp_path / 'semi.pth')
    for network in ('teacher', 'student'):
        cfg = read_config(path, {'model.semi_test_cfg.predict_on': network})
        side = compare.Side(cfg, str(tmp_path / 'semi.pth'), ())
        sample, labels = side.predict(0)
        with torch.no_grad():
            logits = getattr(side.model, network).encode_decode(
                sample['inputs'][None] / 255., [dict(img_shape=(32, 32))])
        assert (labels == logits.argmax(1)[0].numpy()).mean() > 0.99


@pytest.mark.parametrize('head', ['MaskFormerHead', 'Mask2FormerHead'])
def test_query_heads_are_compared_alike(compare, tiny_config, tmp_path, head):
    pytest.importorskip('mmdet')
    cfg = read_config(str(tiny_config))
    cfg.model = query_segmentor_config(head)
    cfg.model.decode_head.num_classes = 3
    cfg.model.decode_head.loss_cls.class_weight = [1., 1., 1., .1]
    torch.save(dict(state_dict=load_model(cfg).state_dict()), tmp_path / 'query.pth')
    sides = [compare.Side(cfg, str(tmp_path / 'query.pth'), ())] * 2
    area = compare.measure(sides, 3)
    assert area.shape == (2, 6, 4, 3) and (area[0] == area[1]).all()
    assert (area[0, :, 3].sum(1) == 32 * 32).all()


def test_wrong_use_is_refused(compare, checkpoints, tmp_path, monkeypatch, capsys):
    (tmp_path / 'bare').mkdir()
    bare = tmp_path / 'bare' / 'iter_1.pth'
    bare.write_bytes(checkpoints[0].read_bytes())
    config = checkpoints[0].with_name('tiny.py')
    for arguments, message in (
            ((checkpoints[0], bare), '0 configs lie beside'),
            ((checkpoints[0], checkpoints[0].with_name('none.pth')), 'No such checkpoint'),
            ((checkpoints[0], checkpoints[0]), 'name them with --names'),
            ((*checkpoints, '--configs', config, config, config), 'one config or two'),
            ((*checkpoints, '--configs', 'missing.py'), 'missing.py')):
        with pytest.raises(SystemExit) as stop:
            run(compare, monkeypatch, *arguments, '--out', tmp_path)
        assert stop.value.code == 2 and message in capsys.readouterr().err
