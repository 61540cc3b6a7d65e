# Licensed under the Apache License, Version 2.0.
"""Five lines turn a stock mmseg config into a semi-supervised one."""

import ast
from pathlib import Path

import mmseg
from mmengine.config import Config
from test_configs import STOCK, check_training_step

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
