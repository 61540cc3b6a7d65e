# Licensed under the Apache License, Version 2.0.
"""Every config of RC²L: that its name says what it does, and that it builds, loads and trains."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from test_configs import (
    CONFIGS,
    Name,
    build,
    check_training_step,
    expand,
    load,
    segmentor,
    transform,
    write_dataset,
)

from mmseg_reco.datasets.checks import quick_check
from mmseg_reco.engine.config_check import check_config
from mmseg_reco.models import RC2L, MeanTeacherReCo

FOLDER = CONFIGS / 'rc2l'
ALL = sorted(path.stem for path in FOLDER.glob('*.py'))
README = (FOLDER / 'README.md').read_text()

TERMS = dict(
    rmc='RegionMaskContrastiveLoss',
    rfc='RegionFeatureContrastiveLoss',
    rcc='RegionClassConsistencyLoss',
    smc='SemanticMaskConsistencyLoss')

# Dataset class, images in a batch, crop and scales.
DATA = dict(
    voc=('PascalVOCDataset', 16, (512, 512), (0.5, 2.0)),
    cityscapes=('CityscapesDataset', 8, (512, 1024), (0.5, 2.0)),
    camvid=('CamVidDataset', 10, (360, 480), (0.5, 1.5)),
    camvid_half=('CamVidDataset', 8, (180, 240), (0.5, 1.5)))


class Facts(Name):
    pattern = re.compile(
        r'(?P<root>(?P<net>maskformer|mask2former|deeplabv3plus)_(?P<backbone>r101|r50|m-v2)'
        r'_(?P<data>voc|cityscapes|camvid)_(?P<mode>supervised|semi)-(?P<labels>\d+))'
        r'(_(?P<extra>rc2l|reco-rfc-smc|(rmc|rfc|rcc|smc)(-(rfc|rcc|smc))?))?')

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.semi = self.mode == 'semi'
        self.queries = self.net != 'deeplabv3plus'
        self.terms = [] if not self.semi else (
            list(TERMS) if self.extra is None else
            ['rmc', 'rfc', 'smc'] if self.extra == 'rc2l' else self.extra.split('-'))


QUERIES = Facts.find(ALL, queries=True)
PER_PIXEL = Facts.find(ALL, queries=False)
ABLATION = [name for name in QUERIES if Facts(name).extra]
# Other splits are one of these with other lists, the ablation with fewer terms.
ROOTS = [name for name in QUERIES if not Facts(name).extra and
         Facts(name).labels == dict(voc='92', cityscapes='100', camvid='20')[Facts(name).data]]
SPLITS = sorted({*QUERIES} - {*ABLATION} - {*ROOTS})


def built(cfg: Config) -> torch.nn.Module:
    """The model on 'meta'; the test is skipped where it needs mmdet and there is none."""
    if 'Mask' in segmentor(cfg).decode_head.type:
        pytest.importorskip('mmdet', reason='query heads need mmdet')
    return build(cfg)


def without(cfg: Config, *places: str) -> dict:
    """The config as a dict, less the given dotted places."""
    result = cfg.to_dict()
    for place in places:
        *parents, last = place.split('.')
        node = result
        for key in parents:
            node = node.get(key, {})
        node.pop(last, None)
    return result


def test_the_grid_is_complete() -> None:
    assert len(ROOTS) == 9
    for data, counts in dict(voc=(60, 92, 183, 366, 732, 1464),
                             cityscapes=(20, 100, 186, 372, 744)).items():
        for count in counts:
            for mode in ('semi', 'supervised'):
                assert f'maskformer_r101_{data}_{mode}-{count}' in ALL
    for root in ('maskformer_r101_voc_semi-92', 'maskformer_m-v2_camvid_semi-20'):
        assert Facts.find(ALL, root=root, net='maskformer') == sorted(
            [root] + [f'{root}_{extra}' for extra in ('rmc', 'rfc', 'rcc', 'smc', 'rmc-rfc',
                                                      'rcc-smc')])
    for root in ('r101_voc_semi-92', 'r101_cityscapes_semi-20', 'm-v2_camvid_semi-20'):
        assert {f'deeplabv3plus_{root}_rc2l', f'deeplabv3plus_{root}_reco-rfc-smc'} <= {*PER_PIXEL}


def test_parsing_needs_no_mmdet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    for name in ('maskformer_r101_voc_semi-92', 'mask2former_r50_camvid_semi-20'):
        Config.fromfile(FOLDER / f'{name}.py')


@pytest.mark.parametrize('name', ROOTS)
def test_name_says_what_the_config_does(name: str) -> None:
    cfg, facts = load(name, 'rc2l'), Facts(name)
    dataset, batch_size, crop_size, ratio_range = DATA[facts.dataset]
    check_config(cfg)

    network, head = segmentor(cfg), segmentor(cfg).decode_head
    assert network.backbone.type == ('MobileNetV2' if facts.slim else 'ResNet')
    assert network.backbone.get('depth') == dict(r101=101, r50=50).get(facts.backbone)
    stem = dict(maskformer='MaskFormerHead', mask2former='Mask2FormerHead')[facts.net]
    # alone it must say itself that it leaves ignored pixels out; RC2L changes it in any case
    assert head.type == (stem if facts.semi else f'Region{stem}')
    assert head.num_classes == len(DATASETS.get(dataset).METAINFO['classes'])
    assert head.loss_cls.class_weight == [1.0] * head.num_classes + [0.1]
    assert network.data_preprocessor.size == crop_size

    loader = cfg.train_dataloader
    assert loader.batch_size == batch_size
    data = loader.dataset.dataset if facts.semi else loader.dataset
    assert data.type == cfg.val_dataloader.dataset.type == dataset
    crop = transform(data.pipeline, 'RandomRescaleCrop')
    assert (crop.crop_size, crop.ratio_range) == (crop_size, ratio_range)
    if facts.semi:
        assert loader.dataset.type == 'LabeledUnlabeledDataset'
        assert loader.sampler == dict(
            type='MultiSourceSampler', batch_size=batch_size, source_ratio=[1, 1])

    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert hooks == (['CheckDataHook', 'NumericalWatchHook', 'PreemptionHook'] +
                     ['MeanTeacherHook', 'SamplingHook'] * facts.semi +
                     ['ChannelsLastHook'] * (facts.semi and facts.slim))
    assert cfg.val_cfg.type == ('TeacherStudentValLoop' if facts.semi else 'ValLoop')
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.save_best == ('teacher/mIoU' if facts.semi else 'mIoU')
    assert checkpoint.interval == cfg.train_cfg.val_interval
    assert cfg.param_scheduler[0]['end'] == cfg.train_cfg.max_iters


@pytest.mark.parametrize('name', SPLITS + ABLATION)
def test_splits_differ_in_lists_and_the_ablation_in_terms_alone(name: str) -> None:
    facts = Facts(name)
    root = load(facts.root if facts.extra else next(
        root for root in ROOTS if Facts(root).data == facts.data
        and Facts(root).mode == facts.mode and Facts(root).backbone == facts.backbone), 'rc2l')
    places = ['model.losses'] if facts.extra else [
        f'train_dataloader.dataset.{key}' for key in ('ann_file', 'labeled', 'unlabeled')]
    assert without(load(name, 'rc2l'), *places) == without(root, *places)
    if facts.extra:  # each term as it is with the others
        terms = {loss['type']: loss for loss in root.model.get('losses', [])}
        assert load(name, 'rc2l').model.losses == [
            terms.get(TERMS[term], dict(type=TERMS[term])) for term in facts.terms]


@pytest.mark.parametrize('name', QUERIES)
def test_lists_are_those_of_the_name(name: str) -> None:
    facts, dataset = Facts(name), load(name, 'rc2l').train_dataloader.dataset
    keys = ('labeled', 'unlabeled') if facts.semi else ('ann_file', )
    files = ('labeled', 'unlabeled') if facts.semi else ('labeled', )
    assert [dataset[key] for key in keys] == [
        f'splits/{facts.labels}/0/{file}.txt' for file in files]


@pytest.mark.parametrize('name', ROOTS)
def test_model_and_optimiser_have_the_settings_of_the_spec(name: str) -> None:
    cfg, facts = load(name, 'rc2l'), Facts(name)
    assert facts.slim or segmentor(cfg).backbone.init_cfg.type == 'Pretrained'
    model = built(cfg)
    student = model.student if facts.semi else model
    assert type(student.decode_head).__name__ in ('RegionMaskFormerHead', 'RegionMask2FormerHead')
    if facts.semi:
        assert type(model) is RC2L
        assert [loss.loss_name for loss in model.losses] == [f'loss_{term}' for term in TERMS]
        assert model.semi_train_cfg['weak_threshold'] == 0.7
        assert model.semi_train_cfg['region_source'] == 'semantic'
        assert model.semi_test_cfg['predict_on'] == 'teacher'
        # the student sees what the teacher sees, mixed and recoloured
        assert type(model.mix).__name__ == 'ClassMix'
        assert model.rescale_crop is None
        assert [type(step).__name__ for step in model.strong_augments] == [
            'BatchColorJitter', 'BatchGaussianBlur']
    if facts.slim:  # settings of its own, for a short schedule
        return

    head = student.decode_head
    assert (head.num_queries, head.query_embed.embedding_dim) == (100, 256)
    if facts.semi:
        assert [loss.loss_weight for loss in model.losses] == [1, 1, 1, 1]
        assert [loss.temperature for loss in model.losses[:2]] == [0.1, 0.1]
        assert model.losses[2].no_object_weight == 0.1
        (ema, ) = [hook for hook in cfg.custom_hooks if hook['type'] == 'MeanTeacherHook']
        assert ema['momentum'] == 0.001
    assert cfg.train_cfg.max_iters == 40000
    assert (cfg.param_scheduler[0]['type'], cfg.param_scheduler[0]['power']) == ('PolyLR', 0.9)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.01, norm_type=2)

    decay = 0.05 if facts.net == 'mask2former' else 1e-4
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer).__name__ == 'AdamW'
    settings = {id(weight): (group['lr'], group['weight_decay'])
                for group in optimizer.param_groups for weight in group['params']}
    embeddings = set()
    for key, weight in student.named_parameters():
        embedding = key.split('.')[1] in ('query_embed', 'query_feat', 'level_embed')
        embeddings |= {key.split('.')[1]} if embedding else set()
        assert settings[id(weight)] == pytest.approx(
            (1e-5 if key.startswith('backbone.') else 1e-4, 0 if embedding else decay)), key
    assert len(embeddings) == (3 if facts.net == 'mask2former' else 1)


@pytest.mark.parametrize('name', PER_PIXEL)
def test_per_pixel_configs_are_those_of_reco_with_region_losses(name: str) -> None:
    cfg, facts = load(name, 'rc2l'), Facts(name)
    check_config(cfg)
    reco = load(facts.root)
    rc2l = facts.extra == 'rc2l'
    places = ['model.type', 'model.losses', 'custom_hooks', *[
        f'model.{key}' for key in ('loss_unsup', 'rescale_crop', 'strong_augments')] * rc2l]
    assert 'loss_unsup' not in cfg.model or not rc2l
    assert without(cfg, *places) == without(reco, *places)
    assert cfg.custom_hooks == [hook for hook in reco.custom_hooks
                                if not (rc2l and hook['type'] == 'ClassRelationHook')]
    model = build(cfg)
    assert type(model) is (RC2L if rc2l else MeanTeacherReCo)
    # a default of the method is not seen in its config
    views, expected = ([(type(step), vars(step)) for step in (
        net.rescale_crop, net.mix, *net.strong_augments)] for net in (model, build(reco)))
    assert views == expected
    assert model.semi_train_cfg['region_source'] == 'semantic'
    assert [loss.loss_name for loss in model.losses] == [f'loss_{term}' for term in facts.terms]
    if not rc2l:
        assert cfg.model.losses[:1] == reco.model.losses


@pytest.mark.parametrize('name', ALL)
def test_config_says_only_what_differs(name: str) -> None:
    lines = [line for line in (FOLDER / f'{name}.py').read_text().splitlines()
             if not line.startswith('#')]
    assert len(lines) <= (20 if name in ROOTS else 9)


def readme_rows(column: str) -> list[list[str]]:
    """Cells of the rows of the README's tables that have a column of this name."""
    tables = re.findall(r'^\|.*(?:\n\|.*)+', README, re.MULTILINE)
    return [[cell.strip() for cell in row.strip('|').split('|')] for table in tables
            if column in table.splitlines()[0] for row in table.splitlines()[2:]]


def test_tables_in_the_readme_list_exactly_the_configs() -> None:
    listed = [name for row in re.findall(r'^\|.*$', README, re.MULTILINE)
              for pattern in re.findall(r'`([^` ]+)\.py`', row) for name in expand(pattern)]
    assert sorted(listed) == ALL


@pytest.mark.parametrize('row', readme_rows('Setting'), ids=lambda row: row[0])
def test_options_in_the_readme_work(row: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    for options in re.findall('`([^`]+=[^`]+)`', row[1]):
        cfg = load('maskformer_r101_voc_semi-92', 'rc2l')
        before = cfg.to_dict()
        cfg.merge_from_dict(parser.parse_args(['--cfg-options', *options.split()]).cfg_options)
        assert cfg.to_dict() != before
        check_config(cfg)
        # networks are not looked at here, so these build faster
        segmentor(cfg).backbone.depth = 18
        segmentor(cfg).decode_head.transformer_decoder.num_layers = 1
        built(cfg)


def test_command_in_the_readme_turns_the_lists_of_the_field_into_names(tmp_path: Path) -> None:
    (command, ) = re.findall(r'^sed -E .*$', README, re.MULTILINE)
    script = re.search("'(.*)'", command)[1]
    city = 'aachen/aachen_000000_000019'
    forms = {
        f'leftImg8bit/train/{city}_leftImg8bit.png gtFine/train/{city}_gtFine_labelTrainIds.png':
        city,
        f'leftImg8bit/train/{city}_leftImg8bit.png': city,
        'JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png': '2007_000032',
        '2007_000032': '2007_000032',
    }
    done = subprocess.run(['sed', '-E', script], input='\n'.join(forms) + '\n', text=True,
                          capture_output=True, check=True)
    assert done.stdout.splitlines() == list(forms.values())


def test_metafile_lists_the_rc2l_configs() -> None:
    index = yaml.safe_load(Path('model-index.yml').read_text())
    assert 'configs/rc2l/metafile.yml' in index['Import']
    metafile = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    (collection, ) = metafile['Collections']
    assert Path(collection['README']).is_file()
    for model in metafile['Models']:
        assert Path(model['Config']) == FOLDER / f'{model["Name"]}.py'
        assert model['In Collection'] == collection['Name']
        assert model['Metadata']['Batch Size'] == load(
            model['Name'], 'rc2l').train_dataloader.batch_size
    assert sorted(model['Name'] for model in metafile['Models']) == sorted(
        {*Facts.find(ALL, semi=True)} - {*ABLATION})


# Data: the folders of docs/datasets.md and of mmseg, with generated images.


def write_cityscapes(root: Path) -> None:
    """Four training images and one for validation, small, as mmseg lays Cityscapes out."""
    generator = np.random.default_rng(0)
    names = [f'aachen/aachen_{index}' for index in range(5)]
    for name, part in zip(names, ['train'] * 4 + ['val'], strict=True):
        mask = cv2.resize(generator.choice([*range(19), 255], (6, 8)).astype(np.uint8), (256, 128),
                          interpolation=cv2.INTER_NEAREST)
        for path, pixels in ((f'leftImg8bit/{part}/{name}_leftImg8bit.png', cv2.merge([mask] * 3)),
                             (f'gtFine/{part}/{name}_gtFine_labelTrainIds.png', mask)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / path), pixels)
    (root / 'splits/100/0').mkdir(parents=True)
    (root / 'splits/100/0/labeled.txt').write_text('\n'.join(names[:2]))
    (root / 'splits/100/0/unlabeled.txt').write_text('\n'.join(names[2:4]))


@pytest.mark.parametrize('mode', ['semi', 'supervised'])
@pytest.mark.parametrize('name', ['voc_{}-92', 'cityscapes_{}-100'])
def test_data_load(name: str, mode: str, tmp_path: Path) -> None:
    cfg = load(f'maskformer_r101_{name.format(mode)}', 'rc2l')
    if 'voc' in name:
        write_dataset(tmp_path, 'voc')
        (tmp_path / 'splits/60').rename(tmp_path / 'splits/92')
    else:
        write_cityscapes(tmp_path)
    loader = cfg.train_dataloader
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    if mode == 'semi':
        loader.sampler.batch_size = 2
    for dataset in (loader.dataset.get('dataset', loader.dataset), cfg.val_dataloader.dataset):
        dataset.data_root = str(tmp_path)
    train = Runner.build_dataloader(loader, seed=0)
    val = DATASETS.build(cfg.val_dataloader.dataset)
    problems, _ = quick_check(train.dataset, val, cfg.model)
    assert problems == []
    sample = val[0]['data_samples']
    assert sample.gt_sem_seg.shape == sample.ori_shape

    crop_size = DATA[name.split('_')[0]][2]
    batch = next(iter(train))['data_samples']
    parts = ({branch: [sample for sample in samples if sample is not None]
              for branch, samples in batch.items()} if mode == 'semi' else dict(sup=batch))
    assert {branch: len(samples) for branch, samples in parts.items()} == (
        dict(sup=1, unsup=1) if mode == 'semi' else dict(sup=2))
    for branch, samples in parts.items():
        for sample in samples:
            assert sample.img_shape == crop_size
            labels = sample.gt_sem_seg.data
            assert (labels != 255).any() == (branch == 'sup')
            assert ((labels < len(val.metainfo['classes'])) | (labels == 255)).all()


# One training step of each kind of network and method, at a size for a CPU.

# Zero at first: what the first attention of the queries reads, in MaskFormer; what the points that
# pixels attend to depend on, in Mask2Former.
STILL = dict(
    maskformer=('transformer_decoder.layers.0.self_attn.attn.in_proj_weight',
                'transformer_decoder.layers.0.self_attn.attn.out_proj.weight',
                'transformer_decoder.layers.0.norms.0.weight'),
    mask2former=('pixel_decoder.level_encoding', ),
    deeplabv3plus=())


def supervised_terms(cfg: Config) -> set[str]:
    """Names of the stock losses."""
    head = segmentor(cfg).decode_head
    if 'Mask' not in head.type:
        return {'decode.loss_ce'}
    pytest.importorskip('mmdet', reason='query heads need mmdet')
    # the layers before the last one; Mask2Former also predicts before the first
    earlier = head.transformer_decoder.num_layers - ('Mask2Former' not in head.type)
    return {f'decode.{layer}loss_{kind}' for kind in ('cls', 'mask', 'dice')
            for layer in ('', *(f'd{index}.' for index in range(earlier)))}


@pytest.mark.parametrize('name', [
    'maskformer_m-v2_camvid_supervised-20',
    'maskformer_m-v2_camvid_semi-20',
    'deeplabv3plus_m-v2_camvid_semi-20_rc2l',
    'deeplabv3plus_m-v2_camvid_semi-20_reco-rfc-smc',
    pytest.param('mask2former_r50_camvid_semi-20', marks=pytest.mark.slow),
    pytest.param('maskformer_r101_cityscapes_semi-100', marks=pytest.mark.slow),
])
def test_one_training_step(name: str) -> None:
    cfg, facts = load(name, 'rc2l'), Facts(name)
    expected = supervised_terms(cfg)
    if facts.semi:
        cfg.model.semi_train_cfg = dict(weak_threshold=0.)  # so that there are regions
        expected = {f'sup.{term}' for term in expected} | {f'loss_{term}' for term in facts.terms}
        expected |= {'loss_unsup'} if cfg.model.type == 'MeanTeacherReCo' else set()
    logs = check_training_step(cfg, expected, STILL[facts.net])
    for term in facts.terms:
        assert logs[f'loss_{term}'] > 0
