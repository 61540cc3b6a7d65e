# Licensed under the Apache License, Version 2.0.
"""Five lines turn a stock mmseg config into a semi-supervised one, whatever the data are."""

import ast
import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS
from test_configs import STOCK, check_training_step

from mmseg_reco.datasets.checks import leaf_datasets
from mmseg_reco.engine.config_check import check_config
from mmseg_reco.engine.launch import build_runner

PAGE = Path('docs/your_data.md')
CONFIG = Path('configs/reco') / f'{STOCK}.py'


def test_five_lines_are_five() -> None:
    statements = ast.parse(CONFIG.read_text()).body
    names = [statement.targets[0].id for statement in statements]
    assert names[0] == '_base_'
    assert statements[0].value.value.startswith('mmseg::')
    assert len(names[1:]) == 5


def test_stock_config_with_five_lines_trains() -> None:
    cfg = Config.fromfile(CONFIG)
    base = ast.parse(CONFIG.read_text()).body[0].value.value.removeprefix('mmseg::')
    stock = Config.fromfile(Path(mmseg.__file__).parent / '.mim/configs' / base)
    # everything else is the stock config, the augmentation of labelled images included
    assert cfg.train_dataloader.dataset.dataset.pipeline == stock.train_dataloader.dataset.pipeline
    assert cfg.optim_wrapper.optimizer.lr == stock.optim_wrapper.optimizer.lr
    assert cfg.model.segmentor.decode_head.dilations == stock.model.decode_head.dilations
    assert cfg.train_dataloader.sampler.batch_size == cfg.train_dataloader.batch_size

    cfg.model.segmentor.pretrained = None
    check_training_step(
        cfg, {'sup.decode.loss_ce', 'sup.aux.loss_ce', 'loss_unsup', 'loss_reco'})


# ------------------------------------------------------------- the examples of docs/your_data.md


def blocks(page: str) -> dict[str, str]:
    """The page's Python blocks by the file names in their first lines."""
    return {name: code for code, name in re.findall(
        r'```python\n(# (\S+\.py)\n.*?)```', page, re.DOTALL)}


BLOCKS = blocks(PAGE.read_text())
# What an example trains with, by its config: names of the losses on labelled images, and the
# number of images of each labelled and each unlabelled dataset.
EXAMPLES = dict(
    cityscapes_reco=(('ce', ), [2], [3]),
    my_reco=(('ce', ), [2], [4]),
    lakes_reco=(('ce', ), [2], [4]),
    more_images=(('ce', ), [6], [5]),
    points_reco=(('ce', ), [6], [6]),
    three_towns=(('ce', ), [2, 2, 2], [4, 4, 4]),
    three_pools=(('ce', ), [2], [4, 7, 5]),
    harbour_reco=(('ce', ), [2, 2, 2], [4, 4, 4]),
    my_view_reco=(('ce', ), [2], [4]),
    hard_pixels_reco=(('ce', 'lovasz'), [2], [4]),
    dice_reco=(('ce', 'dice'), [2], [4]),
    cloud_reco=(('ce', ), [2], [4]),
)


def draw(root: Path, names: list[str], images: str = 'images', masks: str | None = 'masks',
         suffix: str = '.png', mask_suffix: str = '.png', num_classes: int = 3) -> None:
    """Images of 72 x 96 with stripes of the classes, and some void in their masks."""
    for name in names:
        rng = np.random.default_rng(list(name.encode()))
        mask = np.repeat(np.arange(96) * num_classes // 96, 72).reshape(96, 72).T.astype(np.uint8)
        image = mask[..., None] * 60 + rng.integers(0, 40, (72, 96, 3), np.uint8)
        mask[60:, :9] = 255
        for folder, array, end in ((images, image, suffix), (masks, mask, mask_suffix)):
            if folder is not None:
                path = root / folder / f'{name}{end}'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)


def write_lists(root: Path, names: list[str]) -> None:
    for file, part in dict(labeled=names[:2], unlabeled=names[2:6], train=names[:6],
                           val=names[6:]).items():
        (root / f'{file}.txt').write_text('\n'.join(part) + '\n')


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The page's files, and data in all the layouts that it describes."""
    names = [f'{letter} 1' for letter in 'abcdefg']
    folders = ['my_data', *(f'towns/{town}' for town in ('aden', 'bonn', 'cork'))]
    for folder in folders:
        draw(tmp_path / folder, names)
        write_lists(tmp_path / folder, names)
    for name in names[:6]:
        mask = cv2.imread(str(tmp_path / f'my_data/masks/{name}.png'), cv2.IMREAD_UNCHANGED)
        points = np.full_like(mask, 255)
        points[::6, ::6] = mask[::6, ::6]
        (tmp_path / 'my_data/points').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f'my_data/points/{name}.png'), points)
    draw(tmp_path / 'harbour', names, num_classes=4)
    write_lists(tmp_path / 'harbour', names)
    draw(tmp_path / 'drone', ['1/a', '1/b', '2/a', '2/b', 'c'], images='', masks=None,
         suffix='.jpg')
    for season, part in (('summer', names[:6]), ('winter', names[6:])):
        draw(tmp_path / 'lakes', part, season, f'{season}_labels', '_rgb.png', '_labels.png')
    write_lists(tmp_path / 'lakes', names)
    cities = [f'{city}/{city}_000000_{number:06d}' for city in ('aachen', 'bochum')
              for number in range(3)]
    for part in ('train', 'val'):
        draw(tmp_path / 'data/cityscapes', cities[:5] if part == 'train' else cities[5:],
             f'leftImg8bit/{part}', f'gtFine/{part}', '_leftImg8bit.png',
             '_gtFine_labelTrainIds.png')
    write_lists(tmp_path / 'data/cityscapes', cities[:5])
    for name, code in BLOCKS.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def shrink(cfg: Config) -> Config:
    """The same training for a CPU: an eighth of the channels, crops of 64 x 64, two iterations."""
    network = cfg.model.segmentor
    network.pretrained = None
    network.backbone.update(base_channels=8, stem_channels=8)
    network.data_preprocessor.size = (64, 64)
    for head in (network.decode_head, network.auxiliary_head):
        for key in ('in_channels', 'channels', 'c1_in_channels', 'c1_channels'):
            if key in head:
                head[key] //= 8

    def crop(node):
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if key == 'crop_size':
                node[key] = (64, 64)
            elif key == 'scale':
                node[key] = (96, 72)
            elif isinstance(value, (dict, list)):
                crop(value)
        if 'data_root' in node:
            node['serialize_data'] = False  # mmengine collects garbage for seconds otherwise

    for part in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        crop(cfg[part])
        cfg[part].update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.update(checkpoint=None, logger=dict(type='LoggerHook', interval=1))
    cfg.update(work_dir='work', launcher='none')
    return cfg


def train(cfg: Config) -> Runner:
    """Two iterations and a validation, with all checks of ``tools/train.py``."""
    check_config(cfg)
    runner = build_runner(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert runner.iter == 2 and 0 <= scalars['val/teacher/mIoU'].current() <= 100
    return runner


@pytest.fixture
def server(place):
    """``my_data`` by HTTP."""
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(place / 'my_data'))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def test_every_block_of_the_page_is_trained_with_or_needed():
    needed = {name for code in BLOCKS.values() for name in BLOCKS
              if f"'./{name}'" in code or f"'{name.removesuffix('.py')}'" in code}
    assert {f'{name}.py' for name in EXAMPLES} | needed == set(BLOCKS)
    assert PAGE.read_text().count('```python') == len(BLOCKS)


@pytest.mark.parametrize('name', EXAMPLES)
def test_example_trains(name, place, request):
    losses, labeled, unlabeled = EXAMPLES[name]
    if name == 'cloud_reco':
        port = request.getfixturevalue('server')
        path = place / f'{name}.py'
        path.write_text(path.read_text().replace(':8000', f':{port}'))
    cfg = Config.fromfile(f'{name}.py')
    runner = train(shrink(cfg))
    scalars = runner.message_hub.log_scalars
    for loss in (*(f'sup.decode.loss_{loss}' for loss in losses), 'loss_unsup', 'loss_reco'):
        values = torch.tensor(scalars[f'train/{loss}'].data[0])
        assert len(values) == 2 and values.isfinite().all(), loss

    leaves = leaf_datasets(runner.train_dataloader.dataset, 'train')
    for part, sizes in (('.labeled', labeled), ('.unlabeled', unlabeled)):
        assert [len(data) for leaf, data in leaves.items() if part in leaf] == sizes
    for leaf, data in leaves.items():
        sample = data[0]['data_samples']['unsup' if '.unlabeled' in leaf else 'sup']
        given = sample.gt_sem_seg.data.unique().tolist()
        assert (given == [255]) == ('.unlabeled' in leaf and name != 'points_reco')
        assert set(given) <= {0, 1, 2, 255}


def test_classes_come_together_by_name(place):
    """House, ship, field, road on disk; field, road, house and void in training."""
    cfg = shrink(Config.fromfile('harbour_reco.py'))
    config = cfg.train_dataloader.dataset
    for data in config.dataset.datasets:
        data.pipeline = [step for step in data.pipeline
                         if step.type not in ('RandomRescaleCrop', 'RandomFlip')]
    harbour = DATASETS.build(config).datasets[0].datasets[2]
    labels = harbour[0]['data_samples']['sup'].gt_sem_seg.data[0]
    assert labels[0, [0, 30, 60, 90]].tolist() == [2, 255, 0, 1] and labels[70, 0] == 255


@pytest.mark.skipif(mmseg.__version__ != '1.2.2', reason='the page says this of mmseg 1.2.2')
def test_what_the_page_says_of_mmsegs_losses():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[:, :2] = 255
    void = torch.full_like(labels, 255)
    dice, lovasz = (MODELS.build(loss) for loss in (
        dict(type='DiceLoss'), dict(type='LovaszLoss', reduction='none')))
    gradient, = torch.autograd.grad(dice(logits, labels), logits)
    assert gradient[:, :, :2].abs().sum() > 0
    gradient, = torch.autograd.grad(lovasz(logits, labels), logits)
    assert gradient[:, :, :2].abs().sum() == 0
    assert lovasz(logits, void).mean().isnan()
    with pytest.raises(AssertionError):
        dice(logits, labels, weight=torch.ones(1, 4, 4))
