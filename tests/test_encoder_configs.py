# Licensed under the Apache License, Version 2.0.
"""The configs with other encoders: made narrow, each takes a step with its own optimizer."""
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from test_all_heads import build, make_batch, narrow
from test_configs import expand
from test_unimatch_configs import check_metafile

FOLDER = Path('configs/encoders')
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))

#: Channels are divided by this, and what else makes the encoder small.
SMALL = {
    'segformer_mit-b2': (4, dict(num_layers=[1, 1, 1, 1])),
    'upernet_swin-t': (8, dict(depths=[1, 1, 1, 1])),
    'upernet_convnext-t': (8, dict(arch=dict(depths=[1] * 4, channels=[12, 24, 48, 96]))),
    'upernet_beit-b': (16, dict(img_size=(64, 64), num_layers=12)),
    'upernet_dinov2-s': (12, dict(arch=dict(
        embed_dims=32, num_layers=12, num_heads=2, feedforward_channels=32))),
}
#: Learning rate of the encoder's first layers by that of the head.
FIRST_LAYERS = {
    'segformer_mit-b2': 0.1,
    'upernet_swin-t': 1,
    'upernet_convnext-t': 0.9**7,
    'upernet_beit-b': 0.9**13,
    'upernet_dinov2-s': 0.025,
}


def load(name: str) -> Config:
    cfg = Config.fromfile(FOLDER / f'{name}.py', import_custom_modules=False)
    if 'mmpretrain.models' in cfg.custom_imports.imports:
        try:
            import mmpretrain.models  # noqa: F401
        except Exception as error:  # a torchvision that does not fit raises RuntimeError
            pytest.skip(f'the encoder is in mmpretrain, which needs torchvision: {error}')
    return cfg


@pytest.mark.parametrize('name', NAMES)
def test_one_training_step(name: str) -> None:
    cfg, (net, data, labels) = load(name), name.rsplit('_', 2)
    assert (data, labels) == ('voc', 'semi-183')
    crop = cfg.model.segmentor.data_preprocessor.size
    pipeline = cfg.train_dataloader.dataset.dataset.pipeline
    assert next(step for step in pipeline if step.type == 'RandomRescaleCrop').crop_size == crop
    assert cfg.model.segmentor.decode_head.num_classes == 21
    assert (cfg.test_pipeline == cfg.val_dataloader.dataset.pipeline
            == cfg.test_dataloader.dataset.pipeline)  # the first is what inference reads

    by, small = SMALL[net]
    size = (112, 112) if 'dinov2' in net else (64, 64)
    narrow(cfg.model.segmentor, by)
    cfg.model.segmentor.backbone.update(small)
    cfg.model.segmentor.data_preprocessor.size = size
    cfg.model.update(
        projector=dict(channels=16, embed_dims=8), semi_train_cfg=dict(weak_threshold=0.),
        losses=[dict(type='ReCoLoss', num_queries=8, num_negatives=8, strong_threshold=0.9)])
    torch.manual_seed(0)
    model = build(cfg.model).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: weight.clone() for name, weight in model.named_parameters()}

    names = {id(weight): name for name, weight in model.named_parameters()}
    rates = {names[id(weight)]: group['lr'] for group in optimizer.optimizer.param_groups
             for weight in group['params']}
    first = next(name for name in rates if re.match(
        r'student\.backbone\.(patch_embed|layers\.0|downsample_layers\.0)', name))
    last = 'student.decode_head.conv_seg.weight'
    assert rates[first] / rates[last] == pytest.approx(FIRST_LAYERS[net])
    assert rates['student.projector.layers.0.conv.weight'] == rates[last]

    logs = model.train_step(make_batch(size, 4), optimizer)
    assert {'sup.decode.loss_ce', 'loss_unsup', 'loss_reco'} <= set(logs)
    assert all(value.isfinite().all() for value in logs.values())
    for name, weight in model.named_parameters():
        assert weight.isfinite().all()
        assert not name.startswith('teacher.') or weight.equal(before[name])
    assert not model.student.decode_head.conv_seg.weight.equal(before[last])
    assert not dict(model.named_parameters())[first].equal(before[first])


def test_a_constructor_must_be_named() -> None:
    with pytest.raises(ValueError, match='optim_wrapper.paramwise_cfg.constructor'):
        build_optim_wrapper(torch.nn.Linear(1, 1), dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=1.),
            constructor='StudentOptimWrapperConstructor'))


def test_readme_and_metafile_list_exactly_the_configs() -> None:
    rows = [line for line in (FOLDER / 'README.md').read_text().splitlines()
            if line.startswith('|')]
    listed = [name for row in rows for pattern in re.findall(r'`([^` ]+)\.py`', row)
              for name in expand(pattern)]
    assert sorted(listed) == NAMES
    check_metafile(FOLDER, NAMES)
