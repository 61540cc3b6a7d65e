# Licensed under the Apache License, Version 2.0.
"""Every shipped config: that its name says what it does, and that it builds, loads and trains."""

import copy
import functools
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from mmseg.structures import SegDataSample

from mmseg_reco.datasets.checks import quick_check
from mmseg_reco.engine.launch import batch_norm_for_cpu
from mmseg_reco.models import ReCoLoss

CONFIGS = Path('configs')
STOCK = 'mix_into_stock_cityscapes'  # tested in test_five_lines.py
RECO = sorted(path.stem for path in (CONFIGS / 'reco').glob('*.py') if path.stem != STOCK)
DEMO = sorted(path.stem for path in (CONFIGS / 'demo').glob('*.py'))

# Dataset class, its partial-label class, images in a batch, crop and scales: the paper's settings
# and, for CamVid, which is not in the paper, the project's.
DATA = dict(
    voc=('PascalVOCDataset', 'PartialVOCDataset', 20, (321, 321), (0.5, 1.5)),
    cityscapes=('CityscapesDataset', 'PartialCityscapesDataset', 4, (512, 512), (1.0, 1.0)),
    sunrgbd=('SUNRGBDDataset', None, 10, (321, 321), (0.5, 1.5)),
    camvid=('CamVidDataset', 'PartialCamVidDataset', 10, (360, 480), (0.5, 1.5)),
    camvid_half=('CamVidDataset', 'PartialCamVidDataset', 8, (180, 240), (0.5, 1.5)))

# The paper's brightness, contrast, saturation and hue, of labelled and of mixed images.
JITTER = [(0.75, 1.25)] * 3 + [(-0.25, 0.25)]

# Where docs/datasets.md puts images, masks and lists: training, then validation.
FOLDERS = dict(
    voc=[('JPEGImages', '.jpg', 'SegmentationClassAug', f'ImageSets/Segmentation/{name}.txt')
         for name in ('train_aug', 'val')],
    cityscapes=[(f'images/{part}', '.png', f'labels/{part}', f'{part}.txt')
                for part in ('train', 'val')],
    sunrgbd=[(f'images/{part}', '.jpg', f'labels/{part}', f'{part}.txt')
             for part in ('train', 'test')],
    camvid=[(part, '.png', f'{part}annot', f'{part}.txt') for part in ('train', 'val')])


@functools.cache
def _load(name: str, folder: str = 'reco') -> Config:
    return Config.fromfile(CONFIGS / folder / f'{name}.py')


def load(name: str, folder: str = 'reco') -> Config:
    return copy.deepcopy(_load(name, folder))


class Name:
    """What the name of a config says: the groups of a pattern, and what follows from them."""

    pattern: re.Pattern

    def __init__(self, name: str) -> None:
        match = self.pattern.fullmatch(name)
        assert match, f'{name} is not named <net>_<backbone>_<dataset>_<variant>'
        self.__dict__.update(match.groupdict())
        self.slim = self.backbone == 'm-v2'
        self.dataset = self.data + ('_half' if self.slim else '')

    @classmethod
    def find(cls, names: list[str], **wanted) -> list[str]:
        """Those of the names whose facts have the given values."""
        return [name for name in names
                if all(getattr(cls(name), key) == value for key, value in wanted.items())]


class Facts(Name):
    pattern = re.compile(
        r'(?P<net>deeplabv3plus|deeplabv2)_(?P<backbone>r101|m-v2)'
        r'_(?P<data>voc|cityscapes|sunrgbd|camvid)_'
        r'((?P<mode>supervised|semi)-(?P<labels>\d+)|'
        r'(?P<partial>(?P<supervised_partial>supervised-)?partial)(-(?P<level>p1|p5|p25))?)'
        r'(_(?P<extra>reco|classmix|cutmix|cutout))?')

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.partial = bool(self.partial)
        self.semi = self.mode == 'semi' or (self.partial and not self.supervised_partial)
        self.reco = self.extra == 'reco' or (self.semi and self.extra is None)


def segmentor(cfg: Config) -> dict:
    return cfg.model.get('segmentor', cfg.model)


def transform(pipeline: list, kind: str) -> dict:
    return next(step for step in pipeline if step['type'] == kind)


def build(cfg: Config, device: str = 'meta') -> torch.nn.Module:
    """The model without its pretrained weights; on 'meta' without memory or initialisation."""
    batch_norm_for_cpu(cfg)
    segmentor(cfg).backbone.init_cfg = None
    with torch.device(device):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('name', DEMO)
def test_demo_configs_are_parsed_and_built(name: str) -> None:
    build(load(name, 'demo'))


def test_the_card_names_a_config() -> None:
    assert 'deeplabv3plus_r101_voc_partial' in RECO


@pytest.mark.parametrize('name', RECO)
def test_name_says_what_the_config_does(name: str) -> None:
    cfg, facts = load(name), Facts(name)
    plain, partial, batch_size, crop_size, ratio_range = DATA[facts.dataset]

    network = segmentor(cfg)
    assert network.backbone.type == ('MobileNetV2' if facts.slim else 'ResNet')
    assert network.backbone.get('depth') == (None if facts.slim else 101)
    assert network.decode_head.type == dict(
        deeplabv2='DeepLabV2Head', deeplabv3plus='DepthwiseSeparableASPPHead')[facts.net]
    assert network.decode_head.num_classes == len(DATASETS.get(plain).METAINFO['classes'])
    assert network.decode_head.loss_decode.avg_non_ignore
    assert network.data_preprocessor.size == crop_size

    loader = cfg.train_dataloader
    assert loader.batch_size == batch_size
    data = loader.dataset.dataset if facts.semi else loader.dataset
    assert data.type == (partial if facts.partial else plain)
    assert data.get('level') == ((facts.level or 'p0') if facts.partial else None)
    crop = transform(data.pipeline, 'RandomRescaleCrop')
    assert (crop.crop_size, crop.ratio_range) == (crop_size, ratio_range)
    assert [step['type'] for step in data.pipeline if step['type'] != 'Resize'] == [
        'LoadImageFromFile', 'LoadAnnotations', 'RandomRescaleCrop', 'RandomColorJitter',
        'RandomGaussianBlur', 'RandomFlip', 'PackSegInputs']
    jitter, blur, flip = map(TRANSFORMS.build, data.pipeline[-4:-1])
    assert (jitter.prob, list(jitter.ranges.values())) == (0.8, JITTER)
    assert (blur.prob, blur.sigma) == (0.5, (0.15, 1.15))
    assert (flip.prob, flip.direction) == (0.5, 'horizontal')
    complete = FOLDERS[facts.data][0][3]
    split = f'splits/{facts.labels}/0'
    if facts.semi:
        assert loader.dataset.type == 'LabeledUnlabeledDataset'
        assert loader.sampler == dict(
            type='MultiSourceSampler', batch_size=batch_size, source_ratio=[1, 1],
            **(dict(burn_in=cfg.model.semi_train_cfg.burn_in) if facts.slim else {}))
        assert data.ann_file == complete
        assert [loader.dataset.get(key) for key in ('labeled', 'unlabeled')] == (
            [None, None] if facts.partial else
            [f'{split}/labeled.txt', f'{split}/unlabeled.txt'])
    else:
        assert loader.sampler.type == 'InfiniteSampler'
        assert data.ann_file == (complete if facts.partial else f'{split}/labeled.txt')

    if facts.semi:
        teacher = HOOKS.build(transform(cfg.custom_hooks, 'MeanTeacherHook'))
        # decay min(1 - 1 / (step + 1), 0.99), with the buffers; 0.95 in the short schedule
        assert (teacher.momentum, teacher.interval, teacher.warmup, teacher.buffers) == (
            0.05 if facts.slim else 0.01, 1, True, 'copy')
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert hooks == (['CheckDataHook', 'NumericalWatchHook', 'PreemptionHook'] +
                     ['ChannelsLastHook'] * (facts.slim and not facts.semi) +
                     ['MeanTeacherHook'] * facts.semi +
                     ['SamplingHook'] * (facts.semi or facts.reco) +
                     ['ChannelsLastHook'] * (facts.slim and facts.semi) +
                     ['ClassRelationHook'] * facts.reco)
    assert cfg.val_cfg.type == ('TeacherStudentValLoop' if facts.semi else 'ValLoop')
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.save_best == ('teacher/mIoU' if facts.semi else 'mIoU')
    assert checkpoint.interval == cfg.train_cfg.val_interval
    assert cfg.param_scheduler == [dict(
        type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=cfg.train_cfg.max_iters,
        by_epoch=False)]


@pytest.mark.parametrize('name', RECO)
def test_model_builds_with_the_settings_of_the_paper(name: str) -> None:
    cfg, facts = load(name), Facts(name)
    model = build(cfg)
    assert type(model).__name__ == (
        'MeanTeacherReCo' if facts.semi else
        'EmbeddingEncoderDecoder' if facts.reco or facts.slim else 'EncoderDecoder')
    student = model.student if facts.semi else model
    v2 = facts.net == 'deeplabv2'
    # strides of the deepest features: 16, DeepLabV2 8
    strides = segmentor(cfg).backbone.strides
    assert (2 if facts.slim else 4) * np.prod(strides) == (8 if v2 else 16)
    branches = (student.decode_head.conv_seg.branches if v2 else student.decode_head.aspp_modules)
    assert [max(layer.dilation[0] for layer in branch.modules()
                if isinstance(layer, torch.nn.Conv2d)) for branch in branches] == (
                    [6, 12, 18, 24] if v2 else [1, 6, 12, 18])
    losses = [module for module in model.modules() if isinstance(module, ReCoLoss)]
    assert len(losses) == facts.reco
    if facts.reco:
        tapped = student.projector.layers[0]
        if v2:
            assert (tapped.in_channels, tapped.kernel_size) == (2048, (1, 1))
        else:  # the concatenation of ASPP and low-level features
            conv = tapped.depthwise_conv.conv if facts.slim else tapped.conv
            assert conv.in_channels == student.decode_head.channels + 48
    if facts.semi:
        assert type(model.mix).__name__.lower() == (
            facts.extra if facts.extra not in (None, 'reco') else 'classmix')
        assert model.rescale_crop.ratio_range == DATA[facts.dataset][4]
        assert model.semi_train_cfg['self_label_threshold'] == (
            0.97 if facts.partial else None)
        assert model.semi_train_cfg['weak_threshold'] == 0.7
        assert model.loss_unsup.strong_threshold == 0.97
        assert model.semi_test_cfg['predict_on'] == 'teacher'
    if facts.slim:
        return
    assert cfg.train_cfg.max_iters == 40000
    assert cfg.optim_wrapper.optimizer == dict(
        type='SGD', lr=2.5e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    assert segmentor(_load(name)).backbone.init_cfg.type == 'Pretrained'
    assert student.align_corners
    assert student.decode_head.loss_decode.loss_weight == 1
    if facts.semi:
        unsup = model.loss_unsup
        assert (unsup.loss_weight, unsup.average, unsup.weight_by, unsup.class_weight) == (
            1, 'valid', 'image', None)
        jitter, blur, flip = model.strong_augments
        assert (jitter.prob, [*jitter.ranges]) == (0.8, JITTER)
        assert (blur.prob, blur.sigma, flip.prob) == (0.5, (0.15, 1.15), 0.5)
    for loss in losses:
        assert (loss.num_queries, loss.num_negatives, loss.temperature, loss.strong_threshold,
                loss.loss_weight, type(loss.query_sampler).__name__,
                type(loss.key_sampler).__name__) == (256, 512, 0.5, 0.97, 1.0,
                                                     'ActiveQuerySampler', 'ActiveKeySampler')
        assert student.projector.embed_dims == 256


@pytest.mark.parametrize('name', RECO)
def test_config_says_only_what_differs(name: str) -> None:
    lines = [line for line in (CONFIGS / 'reco' / f'{name}.py').read_text().splitlines()
             if not line.startswith('#')]
    facts = Facts(name)
    assert len(lines) <= 15
    if facts.extra in ('classmix', 'cutmix', 'cutout') or facts.level:
        assert len(lines) <= 4


def expand(pattern: str) -> list[str]:
    """Shell braces: 'a_{b,c}' to ['a_b', 'a_c']."""
    match = re.search(r'\{([^{}]*)\}', pattern)
    if not match:
        return [pattern]
    return [name for part in match[1].split(',')
            for name in expand(pattern[:match.start()] + part + pattern[match.end():])]


def test_table_in_the_readme_lists_exactly_the_configs() -> None:
    rows = [line for line in (CONFIGS / 'reco' / 'README.md').read_text().splitlines()
            if line.startswith('|')]
    listed = [name for row in rows for pattern in re.findall(r'`([^` ]+)\.py`', row)
              for name in expand(pattern)]
    assert sorted(listed) == sorted([*RECO, STOCK])


def test_metafile_lists_the_reco_configs() -> None:
    index = yaml.safe_load(Path('model-index.yml').read_text())
    metafile = yaml.safe_load(Path(index['Import'][0]).read_text())
    (collection, ) = metafile['Collections']
    assert Path(collection['README']).is_file()
    for model in metafile['Models']:
        assert Path(model['Config']).stem == model['Name']
        assert Path(model['Config']).is_file()
        assert model['In Collection'] == collection['Name']
    assert sorted(model['Name'] for model in metafile['Models']) == Facts.find(
        RECO, semi=True, extra=None)


# Data: the folders of docs/datasets.md with generated images.


def write_dataset(root: Path, data: str) -> None:
    """Twelve training and three validation images with every class in their masks."""
    classes = len(DATASETS.get(DATA[data][0]).METAINFO['classes'])
    labels = {'sunrgbd': [*range(classes + 1)], 'camvid': [*range(classes + 1)]}.get(
        data, [*range(classes), 255])
    size = dict(voc=(375, 500), cityscapes=(512, 1024), sunrgbd=(384, 512), camvid=(360, 480))[data]
    generator = np.random.default_rng(0)
    for (images, suffix, masks, names), part in zip(
            FOLDERS[data], (range(12), range(12, 15)), strict=True):
        for folder in (images, masks, Path(names).parent):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / names).write_text(''.join(f'{index}\n' for index in part))
        for index in part:
            blocks = generator.choice(labels, (6, 8)).astype(np.uint8)
            mask = cv2.resize(blocks, size[::-1], interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(root / masks / f'{index}.png'), mask)
            image = cv2.merge([mask * 5, 255 - mask * 3, mask])
            cv2.imwrite(str(root / images / f'{index}{suffix}'), image)
    for split in ('20', '50', '60'):
        folder = root / 'splits' / split / '0'
        folder.mkdir(parents=True)
        (folder / 'labeled.txt').write_text('0\n1\n2\n')
        (folder / 'unlabeled.txt').write_text(''.join(f'{index}\n' for index in range(3, 12)))


@pytest.fixture(scope='module')
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('datasets')
    for data in FOLDERS:
        write_dataset(root / data, data)
    return root


def first_counts(data: str) -> str:
    return dict(voc='60', cityscapes='20', sunrgbd='50', camvid='20')[data]


LOADED = [name for name in Facts.find(RECO, net='deeplabv3plus', extra=None, level=None)
          if Facts(name).labels in (None, first_counts(Facts(name).data))]


@pytest.mark.parametrize('name', LOADED)
def test_data_load(name: str, datasets: Path) -> None:
    cfg, facts = load(name), Facts(name)
    loader = cfg.train_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    for dataset in (loader.dataset.get('dataset', loader.dataset), cfg.val_dataloader.dataset):
        dataset.data_root = str(datasets / facts.data)
    loader.sampler.pop('burn_in', None)  # with batches of labelled images alone
    train = Runner.build_dataloader(loader, seed=0)
    val = DATASETS.build(cfg.val_dataloader.dataset)

    problems, _ = quick_check(train.dataset, val, cfg.model)
    assert problems == []
    assert len(val) == 3
    sample = val[0]['data_samples']
    assert sample.gt_sem_seg.shape == sample.ori_shape

    batch = next(iter(train))
    _, _, batch_size, crop_size, _ = DATA[facts.dataset]
    if facts.semi:
        parts = {branch: [sample for sample in samples if sample is not None]
                 for branch, samples in batch['data_samples'].items()}
        assert [len(parts['sup']), len(parts['unsup'])] == [batch_size // 2] * 2
        assert all('hidden_sem_seg' in sample for sample in parts['unsup'])
        given = [(sample.gt_sem_seg.data != 255).float().mean() for sample in parts['unsup']]
        assert max(given) < 1e-3
        assert (max(given) > 0) == facts.partial
    else:
        parts = dict(sup=batch['data_samples'])
        assert len(parts['sup']) == batch_size
    share = torch.stack([(sample.gt_sem_seg.data != 255).float().mean()
                         for sample in parts['sup']])
    assert (share.max() < 1e-3) if facts.partial else (share.mean() > 0.3)
    classes = len(val.metainfo['classes'])
    for sample in (sample for samples in parts.values() for sample in samples):
        assert sample.img_shape == crop_size
        labels = sample.gt_sem_seg.data
        assert ((labels < classes) | (labels == 255)).all()


# One training step of each kind of network and method, at a size for a CPU.

SMALL = (65, 65)


def random_sample(num_classes: int) -> tuple[torch.Tensor, SegDataSample]:
    sample = SegDataSample(metainfo=dict(img_shape=SMALL, ori_shape=SMALL, pad_shape=SMALL))
    blocks = torch.randint(0, num_classes, (1, 5, 5))
    sample.gt_sem_seg = PixelData(
        data=blocks.repeat_interleave(13, 1).repeat_interleave(13, 2))
    return torch.randint(0, 256, (3, *SMALL), dtype=torch.uint8), sample


def random_batch(num_classes: int, semi: bool) -> dict:
    """Four images; if ``semi``, two labelled and two unlabelled, as MultiBranch hands them over."""
    images, samples = zip(*(random_sample(num_classes) for _ in range(4)), strict=True)
    if not semi:
        return dict(inputs=list(images), data_samples=list(samples))
    for sample in samples[2:]:
        sample.gt_sem_seg.data.fill_(255)

    def branches(entries: tuple) -> dict:
        return dict(sup=[*entries[:2], None, None], unsup=[None, None, *entries[2:]])

    return dict(inputs=branches(images), data_samples=branches(samples))


def check_training_step(cfg: Config, expected: set[str], still: tuple[str, ...] = ()) -> dict:
    """Build, train one step on random images, predict: the losses are finite, and all weights move
    but those whose names hold one of ``still``. Returns what the step logs.
    """
    torch.manual_seed(0)
    network = segmentor(cfg)
    network.data_preprocessor.size = SMALL
    cfg.model.get('semi_train_cfg', {}).update(burn_in=0)
    model = build(cfg, 'cpu')
    semi = hasattr(model, 'student')
    trained = model.student if semi else model
    before = {name: weight.detach().clone() for name, weight in trained.named_parameters()}
    optimizer = torch.optim.SGD(
        [weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    model.train()
    num_classes = network.decode_head.num_classes
    logs = model.train_step(random_batch(num_classes, semi), OptimWrapper(optimizer))
    assert {name for name in logs if 'loss' in name} == expected | {'loss'}
    assert all(torch.isfinite(value).all() for value in logs.values())
    for name, weight in trained.named_parameters():
        assert weight.equal(before[name]) == any(part in name for part in still), name

    model.eval()
    image, sample = random_sample(num_classes)
    (prediction, ) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert prediction.pred_sem_seg.shape == SMALL
    return logs


STEPS = {
    'supervised-{}': {'decode.loss_ce'},
    'supervised-{}_reco': {'decode.loss_ce', 'loss_reco'},
    'semi-{}': {'sup.decode.loss_ce', 'loss_unsup', 'loss_reco'},
}


@pytest.mark.parametrize('network', [
    'deeplabv3plus_m-v2_camvid',
    'deeplabv3plus_r101_cityscapes',
    'deeplabv2_r101_cityscapes',
])
@pytest.mark.parametrize('variant', STEPS)
def test_one_training_step(network: str, variant: str) -> None:
    check_training_step(load(f'{network}_{variant.format(20)}'), STEPS[variant])
