# Licensed under the Apache License, Version 2.0.
"""The configs of UniMatch: settings of the paper, data, and a training step."""
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS, MODELS
from test_configs import Name, build, check_training_step, expand, load, write_dataset
from tiny_segmentor import make_batch, segmentor_config

from mmseg_reco.datasets.checks import quick_check
from mmseg_reco.models import ReCoLoss

FOLDER = Path('configs/unimatch')
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
VOC = [name for name in NAMES if '_voc_' in name]


class Facts(Name):
    pattern = re.compile(
        r'deeplabv3plus_(?P<backbone>r101|m-v2)_(?P<data>voc|camvid)_'
        r'semi-(?P<labels>\d+)_(?P<method>unimatch|reco-unimatch|fixmatch)')


@pytest.mark.parametrize('name', NAMES)
def test_name_says_what_the_config_does(name: str) -> None:
    cfg, facts = load(name, 'unimatch'), Facts(name)
    model = build(cfg)
    split = f'splits/{facts.labels}/0'
    assert cfg.train_dataloader.dataset.labeled == f'{split}/labeled.txt'
    assert cfg.train_dataloader.dataset.unlabeled == f'{split}/unlabeled.txt'
    streams = (1, None) if facts.method == 'fixmatch' else (2, 0.5)
    settings = model.semi_train_cfg
    assert (settings['strong_views'], settings['feature_dropout']) == streams
    assert model.loss_unsup.weight_by == 'pixel' and model.loss_unsup.average == 'valid'
    # 0.25 for each strong view and 0.5 for perturbed features; FixMatch has one stream
    assert model.loss_unsup.loss_weight == (1 if facts.method == 'fixmatch' else 0.5)
    assert settings['feature_weight'] == 1
    reco = [module for module in model.modules() if isinstance(module, ReCoLoss)]
    assert len(reco) == (facts.method == 'reco-unimatch')
    hooks = {hook['type']: hook for hook in cfg.custom_hooks}
    assert hooks['MeanTeacherHook']['momentum'] == 1
    assert ('ClassRelationHook' in hooks) == bool(reco)
    assert cfg.val_cfg.type == 'ValLoop' and cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    assert cfg.param_scheduler[-1]['end'] == cfg.train_cfg.max_iters


@pytest.mark.parametrize('name', VOC)
def test_settings_of_the_paper(name: str) -> None:
    cfg = load(name, 'unimatch')
    model = build(cfg)
    assert model.loss_unsup.strong_threshold == 0.95
    assert cfg.train_dataloader.batch_size == 16 and model.rescale_crop is None
    assert (model.mix.prob, model.mix.area) == (0.5, (0.02, 0.4))
    jitter, grey, blur = model.strong_augments
    assert (jitter.prob, grey.prob, blur.prob) == (0.8, 0.2, 0.5)
    assert blur.sigma == (0.1, 2.0) and jitter.ranges == (*[(0.5, 1.5)] * 3, (-0.25, 0.25))
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.nesterov) == ('SGD', 0.9, False)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(weight): name for name, weight in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        # half of 0.001 and of 0.01, as the sum of the losses is not halved
        backbone = 'backbone' in names[id(group['params'][0])]
        assert group['lr'] == pytest.approx(0.0005 if backbone else 0.005)
        assert group['weight_decay'] == 2 * 1e-4


def test_half_the_loss_is_half_the_learning_rate_and_twice_the_decay() -> None:
    """What schedule_unimatch.py says."""
    paths = []
    for factor, lr, decay in ((0.5, 0.01, 1e-2), (1., 0.005, 2e-2)):
        weight = torch.tensor([1., -2.], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9, weight_decay=decay)
        for _ in range(20):
            optimizer.zero_grad()
            (factor * (weight**4 + weight.cos()).sum()).backward()
            optimizer.step()
        paths.append(weight.detach())
    torch.testing.assert_close(*paths)


@pytest.mark.parametrize('method', ['unimatch', 'reco-unimatch'])
def test_one_training_step(method: str) -> None:
    expected = {'sup.decode.loss_ce', 'loss_unsup', 'loss_unsup_features'}
    check_training_step(load(f'deeplabv3plus_m-v2_camvid_semi-20_{method}', 'unimatch'),
                        expected | ({'loss_reco'} if 'reco' in method else set()))


def test_both_halves_are_rescaled_and_flipped(tmp_path: Path) -> None:
    write_dataset(tmp_path, 'voc')
    lists = tmp_path / 'splits/92/0'
    lists.mkdir(parents=True)
    (lists / 'labeled.txt').write_text('0\n1\n')
    (lists / 'unlabeled.txt').write_text('2\n3\n4\n')
    cfg = load('deeplabv3plus_r101_voc_semi-92_unimatch', 'unimatch')
    loader = cfg.train_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    for dataset in (loader.dataset.dataset, cfg.val_dataloader.dataset):
        dataset.data_root = str(tmp_path)
    train = Runner.build_dataloader(loader, seed=0)
    assert quick_check(train.dataset, None, cfg.model)[0] == []
    for part, hidden in zip(train.dataset.datasets, (False, True), strict=True):
        pipeline = [type(step).__name__ for step in part.pipeline.transforms]
        assert pipeline[2:-1] == ['RandomRescaleCrop', 'RandomFlip']
        assert part.pipeline.transforms[2].ratio_range == (0.5, 2.0)
        assert (pipeline[1] == 'HideLabels') == hidden
    batch = next(iter(train))
    for branch in ('sup', 'unsup'):
        samples = [sample for sample in batch['data_samples'][branch] if sample is not None]
        assert len(samples) == 8 and all(sample.img_shape == (321, 321) for sample in samples)
        assert (samples[0].gt_sem_seg.data == 255).all() == (branch == 'unsup')


def test_lines_of_the_readme_for_a_config_of_your_own() -> None:
    (lines, ) = re.findall(r'```python\n(.*?)```', (FOLDER / 'README.md').read_text(), re.DOTALL)
    names = dict(_base_=SimpleNamespace(model=segmentor_config()))
    exec(lines, names)
    del names['model']['_delete_']
    losses = MODELS.build(names['model']).train().loss(*make_batch())
    assert {'loss_reco', 'loss_unsup', 'loss_unsup_features'} <= set(losses)
    assert HOOKS.build(names['custom_hooks'][0]).momentum == 1


def test_readme_and_metafile_list_exactly_the_configs() -> None:
    readme = (FOLDER / 'README.md').read_text()
    rows = [line for line in readme.splitlines() if line.startswith('|')]
    listed = [name for row in rows for pattern in re.findall(r'`([^` ]+)\.py`', row)
              for name in expand(pattern)]
    assert sorted(listed) == NAMES
    check_metafile(FOLDER, NAMES)


def check_metafile(folder: Path, names: list[str]) -> None:
    """It lists the configs, and no results."""
    path = folder / 'metafile.yml'
    assert str(path) in yaml.safe_load(Path('model-index.yml').read_text())['Import']
    metafile = yaml.safe_load(path.read_text())
    (collection, ) = metafile['Collections']
    assert Path(collection['README']).is_file()
    assert sorted(model['Name'] for model in metafile['Models']) == names
    for model in metafile['Models']:
        assert Path(model['Config']) == folder / f"{model['Name']}.py"
        assert model['In Collection'] == collection['Name'] and 'Results' not in model
        cfg = Config.fromfile(model['Config'], import_custom_modules=False)
        assert model['Metadata']['Batch Size'] == cfg.train_dataloader.batch_size
