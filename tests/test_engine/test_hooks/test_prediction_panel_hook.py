# Licensed under the Apache License, Version 2.0.
import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from tiny_semi import write_semi_config

from mmseg_reco.engine import PredictionPanelHook
from mmseg_reco.engine.hooks import prediction_panel_hook as module
from mmseg_reco.engine.hooks.observing import undisturbed
from mmseg_reco.engine.launch import batch_norm_for_cpu
from mmseg_reco.engine.offline import load_model, read_config, training_loader

ITERS = 3


def train(path, work_dir, hook=None, **options):
    """Train with mmengine's loop, whose random numbers go on from one iteration to the next."""
    cfg = read_config(str(path), {
        'work_dir': str(work_dir), 'randomness.seed': 0, 'train_cfg.max_iters': ITERS,
        'train_cfg.val_interval': 99, 'default_hooks.checkpoint.interval': 99,
        'train_cfg.val_begin': 99, **options})
    cfg.experiment_name = str(work_dir.name)
    batch_norm_for_cpu(cfg)
    runner = Runner.from_cfg(cfg)
    if hook is not None:
        runner.register_hook(hook)
    runner.train()
    return runner


def numbers_drawn(runner):
    """What a training leaves behind that a hook could have touched."""
    weights = {key: value.clone() for key, value in runner.model.state_dict().items()}
    return weights, torch.rand(3), np.random.rand(3), module.random.random()  # noqa: NPY002


def painted(work_dir):
    return sorted(path.name for path in work_dir.glob('*/vis_data/vis_image/*.png'))


@pytest.mark.parametrize('semi, source', [(True, 'val'), (True, 'train'), (False, 'val')])
def test_training_is_the_same_to_the_bit_with_and_without_panels(
        tiny_config, tmp_path, semi, source):
    text = tiny_config.read_text().replace(
        "dict(type='PackSegInputs')", "dict(type='RandomFlip', prob=0.5), "
        "dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')")
    tiny_config.write_text(text)
    path = write_semi_config(tiny_config) if semi else tiny_config
    without = numbers_drawn(train(path, tmp_path / 'off'))
    hook = PredictionPanelHook(interval=2, num_images=2, source=source)
    runner = train(path, tmp_path / 'on', hook)
    model = runner.model
    assert model.training and model.student.training if semi else model.training
    assert not (semi and model.teacher.training)
    with_panels = numbers_drawn(runner)
    for key, value in without[0].items():
        assert torch.equal(value, with_panels[0][key]), key
    for a, b in zip(without[1:], with_panels[1:], strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert painted(tmp_path / 'on') == ['prediction_panel_2.png', 'prediction_panel_3.png']


def semi_row(tiny_config, given):
    cfg = read_config(str(write_semi_config(tiny_config)))
    model = load_model(cfg)
    dataset = training_loader(cfg).dataset if given else DATASETS.build(cfg.val_dataloader.dataset)
    (image, sample), *_ = module.choose_samples(dataset, 1)
    with undisturbed(model):
        return model, sample, module.panel_row(model, image, sample, given)


def test_the_cells_are_what_the_networks_say(tiny_config):
    model, sample, row = semi_row(tiny_config, given=False)
    assert list(row) == ['image', 'ground truth', 'pseudo-labels',
                         'confidence\n(black 0, white 1)', 'teacher', 'student']
    image, truth, pseudo, confidence, teacher, student = row.values()
    expected = cv2.imread(sample.img_path)[..., ::-1]
    assert (image == expected).all()
    assert (truth == cv2.imread(sample.seg_map_path, cv2.IMREAD_GRAYSCALE)).all()
    inputs = torch.from_numpy(expected[..., ::-1] / 255.).permute(2, 0, 1)[None].float()
    model.eval()
    for name, labels in (('teacher', teacher), ('student', student)):
        with torch.no_grad():
            logits = getattr(model, name).encode_decode(inputs, [dict(img_shape=(32, 32))])
        assert (labels == logits.argmax(1)[0].numpy()).mean() > 0.99
        if name == 'teacher':
            assert np.abs(confidence - logits.softmax(1).max(1).values[0].numpy()).max() < 1e-5
    assert (pseudo.labels == teacher).mean() > 0.99
    assert (pseudo.confidence == confidence).all() and pseudo.threshold == 0.34


def test_given_labels_of_training_images_override_pseudo_labels(tiny_config):
    _, _, row = semi_row(tiny_config, given=True)
    assert 'given labels' in row and 'ground truth' not in row
    assert (row['pseudo-labels'].labels == row['given labels']).all()
    assert (row['confidence\n(black 0, white 1)'] == 1).all()


@pytest.mark.parametrize('branches', [False, True])
def test_image_and_labels_are_of_the_same_crop(branches):
    class Crops:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            place = torch.rand(())
            if branches:
                return dict(inputs=dict(sup=None, unsup=place),
                            data_samples=dict(sup=None, unsup=place))
            return dict(inputs=place, data_samples=place)

    chosen = module.choose_samples(Crops(), 3)
    assert len(chosen) == 3 and all(image == labels for image, labels in chosen)


def failing_runner():
    def add_image(*_):
        raise OSError('disk full')

    return SimpleNamespace(
        model=torch.nn.Linear(1, 1), iter=1, max_iters=9, logger=logging.getLogger('panel'),
        val_loop=None, visualizer=SimpleNamespace(add_image=add_image))


@pytest.mark.parametrize('broken', ['drawing', 'backend'])
def test_a_failure_is_a_warning_and_leaves_the_model_as_it_was(caplog, monkeypatch, broken):
    hook, runner = PredictionPanelHook(interval=2), failing_runner()
    if broken == 'backend':
        monkeypatch.setattr(hook, 'draw', lambda *_: np.zeros((2, 2, 3), np.uint8))
    hook.after_train_iter(runner, 1)
    wanted = 'disk full' if broken == 'backend' else "set source='train'"
    assert wanted in caplog.text and 'at iteration 2' in caplog.text
    assert runner.model.training


def test_only_the_first_rank_draws(monkeypatch):
    drawn = []
    hook = PredictionPanelHook(interval=1)
    monkeypatch.setattr(hook, 'draw', lambda *_: drawn.append(1))
    monkeypatch.setattr('mmengine.dist.utils.is_main_process', lambda group=None: False)
    hook.after_train_iter(failing_runner(), 0)
    assert not drawn


@pytest.mark.parametrize('wrong', [dict(interval=0), dict(num_images=0), dict(source='test')])
def test_arguments_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PredictionPanelHook(**wrong)
