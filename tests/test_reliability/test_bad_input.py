# Licensed under the Apache License, Version 2.0.
"""What users get wrong, and what they are told: each row of the table in docs/reliability.md.

A case does what the table says and raises; the message must hold every piece that the table quotes.
"""
import re
import socketserver
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmseg.datasets import PascalVOCDataset
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS
from PIL import Image
from tiny_segmentor import segmentor_config
from torch.utils.data import DataLoader

from mmseg_reco.datasets.checks import quick_check
from mmseg_reco.datasets.partial_labels import sparsify
from mmseg_reco.datasets.splits import select_random
from mmseg_reco.engine import launch
from mmseg_reco.engine.checkpoint import latest_checkpoint, safe_checkpoint_loading
from mmseg_reco.engine.config_check import check_config, check_options, check_training
from mmseg_reco.engine.hooks import CheckDataHook, MeanTeacherHook
from mmseg_reco.engine.runner import TeacherStudentValLoop
from mmseg_reco.models import PseudoLabelLoss, ReCoLoss
from mmseg_reco.models.segmentors.embedding_encoder_decoder import cross_entropy_of_labels

DOC = Path(__file__).resolve().parents[2] / 'docs' / 'reliability.md'
CASES: dict[str, Callable] = {}
TEACHER_HOOK = MeanTeacherHook()


def case(function: Callable) -> Callable:
    """Names a case after its function, as the table does."""
    CASES[function.__name__.replace('_', '-')] = function
    return function


@MODELS.register_module()
class HeadWithoutConvSeg(FCNHead):
    """A head that classifies elsewhere."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        del self.conv_seg


class Bench:
    """Good data to spoil: pairs a-d of 6x4 pixels, and ways to load them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ('images', 'masks'):
            (root / folder).mkdir()
        for name in 'abcd':
            noise = np.random.default_rng(ord(name)).integers(0, 255, (64, 96, 3), np.uint8)
            cv2.imwrite(str(self.image(name)), noise)
            self.write_mask(name, np.zeros((64, 96), np.uint8))
        self.write('labeled.txt', 'a\nb\n')
        self.write('unlabeled.txt', 'c\nd\n')

    def image(self, name: str) -> Path:
        return self.root / 'images' / f'{name}.jpg'

    def mask(self, name: str) -> Path:
        return self.root / 'masks' / f'{name}.png'

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding='utf-8')

    def write_mask(self, name: str, mask: np.ndarray) -> None:
        Image.fromarray(mask).save(self.mask(name), 'TIFF' if mask.dtype == np.float32 else 'PNG')

    def stock(self, **changes) -> dict:
        return {**dict(
            type='BaseSegDataset', data_root=str(self.root),
            metainfo=dict(classes=('road', 'tree')),
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                      dict(type='PackSegInputs')]), **changes}

    def semi(self, labeled='labeled.txt', unlabeled='unlabeled.txt', **changes):
        return DATASETS.build(dict(type='LabeledUnlabeledDataset', dataset=self.stock(**changes),
                                   labeled=labeled, unlabeled=unlabeled))

    def check(self, train=None, val=None, model=None, sampler=None) -> None:
        """What happens before the first iteration."""
        train = self.semi() if train is None else train
        CheckDataHook().before_train(SimpleNamespace(
            train_dataloader=DataLoader(train, 4, sampler=sampler),
            val_loop=val and SimpleNamespace(dataloader=DataLoader(val)), hooks=[TEACHER_HOOK],
            cfg=dict(model=model), logger=SimpleNamespace(warning=print)))


def model_of(segmentor: dict | None = None, **settings):
    return MODELS.build(dict(type='MeanTeacherReCo', segmentor=segmentor or segmentor_config(),
                             **settings))


# --------------------------------------------------------------------------- lists and folders


@case
def list_missing(bench, monkeypatch):
    bench.semi(labeled='label.txt')


@case
def list_empty(bench, monkeypatch):
    bench.write('labeled.txt', '\n')
    bench.semi()


@case
def both_lists_empty(bench, monkeypatch):
    bench.write('labeled.txt', '')
    bench.semi(labeled='labeled.txt', unlabeled='labeled.txt')


@case
def unlabeled_missing(bench, monkeypatch):
    bench.semi(unlabeled=None)


@case
def labeled_missing(bench, monkeypatch):
    data = bench.semi(labeled=None)
    raise UserWarning(quick_check(data)[1])


@case
def name_twice(bench, monkeypatch):
    bench.write('unlabeled.txt', 'c\nd\nc\n')
    bench.semi()


@case
def name_without_image(bench, monkeypatch):
    bench.write('labeled.txt', 'a\nx\n')
    bench.check()


@case
def name_with_suffix(bench, monkeypatch):
    bench.write('labeled.txt', 'a.jpg\n')
    bench.check()


@case
def mask_missing(bench, monkeypatch):
    bench.mask('b').unlink()
    bench.check()


@case
def folder_missing(bench, monkeypatch):
    prefix = dict(img_path='imgs', seg_map_path='masks')
    DATASETS.build(dict(type='PartialLabelDataset', level='p0',
                        dataset=bench.stock(data_prefix=prefix)))


@case
def folder_unreadable(bench, monkeypatch):
    """The system call fails, as it would for anyone but the administrator who may run this."""
    data = bench.semi()
    monkeypatch.setattr('mmseg_reco.datasets.checks.list_files', lambda folder, **_: (
        _ for _ in ()).throw(PermissionError(13, 'Permission denied', folder)))
    bench.check(data)


@case
def wrong_suffix(bench, monkeypatch):
    DATASETS.build(dict(type='PartialLabelDataset', level='p0',
                        dataset=bench.stock(img_suffix='.tif')))


@case
def train_and_val_overlap(bench, monkeypatch):
    bench.check(val=DATASETS.build(bench.stock(ann_file='labeled.txt')))


@case
def lists_for_a_concatenation(bench, monkeypatch):
    both = dict(type='ConcatDataset', datasets=[bench.stock(), bench.stock()])
    DATASETS.build(dict(type='LabeledUnlabeledDataset', dataset=both, labeled='labeled.txt',
                        unlabeled='unlabeled.txt'))


@case
def other_classes_concatenated(bench, monkeypatch):
    other = bench.stock(metainfo=dict(classes=('road', 'lake')))
    both = dict(type='ConcatDataset', datasets=[bench.stock(), other])
    DATASETS.build(dict(type='LabeledUnlabeledDataset', dataset=both))


@case
def class_that_the_masks_lack(bench, monkeypatch):
    bench.semi(type='CityscapesDataset')


@case
def dataset_class_unknown(bench, monkeypatch):
    bench.semi(type='OrchardDataset')


@case
def labelled_without_masks(bench, monkeypatch):
    bench.check(bench.semi(data_prefix=dict(img_path='images')))


@case
def list_in_another_encoding(bench, monkeypatch):
    (bench.root / 'unlabeled.txt').write_bytes('c\nd\n'.encode('utf-16'))
    bench.semi()


@case
def folder_behind_http(bench, monkeypatch):
    prefix = dict(img_path='http://127.0.0.1/images')
    bench.semi(unlabeled=dict(data_prefix=prefix))


@case
def storage_misspelt(bench, monkeypatch):
    bench.semi(backend_args=dict(backend='petral'))


@case
def storage_unknown(bench, monkeypatch):
    bench.semi(data_root='gs://bucket/data')


@case
def server_that_is_gone(bench, monkeypatch):
    with socketserver.TCPServer(('127.0.0.1', 0), None) as server:
        port = server.server_address[1]
    bench.semi(data_root=f'http://127.0.0.1:{port}')


@case
def class_that_knows_disks_only(bench, monkeypatch):
    monkeypatch.setattr('mmengine.fileio.backends.HTTPBackend.get', lambda *_: b'a\nb\n')
    metainfo = dict(classes=PascalVOCDataset.METAINFO['classes'])
    bench.semi(type='PascalVOCDataset', data_root='http://127.0.0.1', metainfo=metainfo)


@case
def too_many_labelled_images(bench, monkeypatch):
    select_random(['a', 'b', 'c'], 5, seed=0)


# --------------------------------------------------------------------------- files


@case
def mask_in_colour(bench, monkeypatch):
    bench.write_mask('b', np.zeros((64, 96, 3), np.uint8))
    bench.check()


@case
def mask_of_16_bits(bench, monkeypatch):
    bench.write_mask('b', np.full((64, 96), 1000, np.uint16))
    bench.check()


@case
def mask_of_floats(bench, monkeypatch):
    bench.write_mask('b', np.full((64, 96), 0.5, np.float32))
    bench.check()


@case
def label_that_is_no_class(bench, monkeypatch):
    bench.write_mask('b', np.full((64, 96), 7, np.uint8))
    bench.check()


@case
def label_that_is_no_class_later(bench, monkeypatch):
    data = bench.semi()
    bench.write_mask('b', np.full((64, 96), 7, np.uint8))
    data[1]


@case
def masks_without_a_class(bench, monkeypatch):
    for name in 'ab':
        bench.write_mask(name, np.full((64, 96), 255, np.uint8))
    bench.check()


@case
def class_saved_as_255(bench, monkeypatch):
    bench.write_mask('b', np.full((64, 96), 255, np.uint8))
    bench.check()
    raise UserWarning(quick_check(bench.semi())[1])


@case
def mask_of_another_size(bench, monkeypatch):
    bench.write_mask('b', np.zeros((64, 95), np.uint8))
    bench.check()


@case
def image_cut_short(bench, monkeypatch):
    bench.image('a').write_bytes(bench.image('a').read_bytes()[:-200])
    bench.check()


@case
def image_cut_short_later(bench, monkeypatch):
    data = bench.semi()
    bench.image('a').write_bytes(bench.image('a').read_bytes()[:-200])
    data[0]


@case
def image_cut_short_skipped(bench, monkeypatch):
    said = []
    monkeypatch.setattr('mmseg_reco.datasets.transforms.loading.print_log',
                        lambda text, *_: said.append(text))
    bench.image('a').write_bytes(bench.image('a').read_bytes()[:-200])
    pipeline = [dict(type='LoadCheckedImage', damaged='skip'), *bench.stock()['pipeline'][1:]]
    sample = bench.semi(pipeline=pipeline)[0]
    assert sample['data_samples']['sup'].img_path == str(bench.image('b'))
    raise UserWarning(said[0])


@case
def image_of_zero_bytes(bench, monkeypatch):
    bench.image('c').write_bytes(b'')
    bench.check()


@case
def mask_of_zero_bytes(bench, monkeypatch):
    bench.mask('b').write_bytes(b'')
    bench.check()


@case
def image_that_is_a_web_page(bench, monkeypatch):
    data = bench.semi()
    bench.image('a').write_text('<html>404 not found</html>')
    data[0]


# --------------------------------------------------------------------------- data in the config


@case
def level_unknown(bench, monkeypatch):
    DATASETS.build(dict(type='PartialLabelDataset', level='1%', dataset=bench.stock()))


@case
def level_without_annotations(bench, monkeypatch):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    DATASETS.build(dict(type='PartialLabelDataset', level='p0',
                        dataset=bench.stock(pipeline=pipeline)))


@case
def sparsify_a_colour_mask(bench, monkeypatch):
    sparsify(np.zeros((4, 4, 3), np.uint8), 'p0', np.random.default_rng(0))


@case
def pipeline_without_packing(bench, monkeypatch):
    bench.semi(pipeline=[dict(type='LoadImageFromFile')])


@case
def other_number_of_classes(bench, monkeypatch):
    bench.check(model=dict(decode_head=dict(num_classes=21)))


@case
def other_number_of_classes_of_an_auxiliary_head(bench, monkeypatch):
    heads = [dict(num_classes=2), dict(num_classes=3), dict(type='STDCHead', num_classes=1)]
    bench.check(model=dict(segmentor=dict(decode_head=heads[0], auxiliary_head=heads)))


@case
def class_weights_too_many(bench, monkeypatch):
    loss = dict(type='CrossEntropyLoss', class_weight=[1., 2., 3.])
    head = dict(num_classes=2, loss_decode=[loss])
    bench.check(model=dict(segmentor=dict(decode_head=head)))


@case
def class_weights_too_many_later(bench, monkeypatch):
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    cross_entropy_of_labels(logits, labels, class_weight=torch.ones(3))


@case
def dice_with_pixel_sampler(bench, monkeypatch):
    head = dict(type='FCNHead', num_classes=2, sampler=dict(type='OHEMPixelSampler'),
                loss_decode=[dict(type='CrossEntropyLoss'), dict(type='DiceLoss')])
    bench.check(model=dict(segmentor=dict(decode_head=head)))


@case
def sup_branch_missing(bench, monkeypatch):
    bench.check(DATASETS.build(bench.stock()), model=dict(type='MeanTeacherReCo', segmentor={}))


@case
def images_mixed_by_the_dataset(bench, monkeypatch):
    bench.semi(type='MultiImageMixDataset', dataset=bench.stock())


@case
def ratio_does_not_divide(bench, monkeypatch):
    DATA_SAMPLERS.build(dict(type='MultiSourceSampler', dataset=bench.semi(), batch_size=4,
                             source_ratio=[1, 2]))


@case
def two_batch_sizes(bench, monkeypatch):
    data = bench.semi()
    bench.check(data, sampler=DATA_SAMPLERS.build(dict(
        type='MultiSourceSampler', dataset=data, batch_size=8, source_ratio=[1, 1])))


@case
def stock_sampler(bench, monkeypatch):
    data = bench.semi()
    bench.check(data, model=dict(segmentor={}), sampler=DATA_SAMPLERS.build(dict(
        type='InfiniteSampler', dataset=data)))


@case
def sampler_without_sources(bench, monkeypatch):
    DATA_SAMPLERS.build(dict(type='MultiSourceSampler', dataset=DATASETS.build(bench.stock()),
                             batch_size=4, source_ratio=[1, 1]))


# --------------------------------------------------------------------------- model in the config


@case
def argument_misspelt(bench, monkeypatch):
    check_config(Config(dict(model=dict(losses=[dict(type='ReCoLoss', num_querys=128)]))))


@case
def type_misspelt(bench, monkeypatch):
    check_config(Config(dict(custom_hooks=[dict(type='MeanTeachersHook')])))


@case
def encoder_of_mmpretrain(bench, monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmpretrain.models', raising=False)
    check_config(Config(dict(model=dict(backbone=dict(type='mmpretrain.ConvNeXt')))))


@case
def setting_misspelt(bench, monkeypatch):
    check_config(Config(dict(custom_hook=[dict(type='MeanTeacherHook')])))


@case
def option_misspelt(bench, monkeypatch):
    check_options(['optim_wraper.optimizer.lr'], Config(dict(optim_wrapper=dict())))


@case
def teacher_hook_missing(bench, monkeypatch):
    CheckDataHook().before_train(SimpleNamespace(
        cfg=dict(model=dict(segmentor={})), hooks=[CheckDataHook()]))


@case
def teacher_hook_of_mmdet(bench, monkeypatch):
    hook = type('MeanTeacherHook', (Hook, ), {})()
    check_training(SimpleNamespace(cfg=dict(model=dict(segmentor={})), hooks=[hook]))


@case
def training_by_epochs(bench, monkeypatch):
    cfg = dict(train_cfg=dict(by_epoch=True), train_dataloader=dict(
        sampler=dict(type='MultiSourceSampler')))
    check_training(SimpleNamespace(cfg=cfg, hooks=[]))


@case
def schedule_by_epochs(bench, monkeypatch):
    cfg = dict(train_cfg=dict(type='IterBasedTrainLoop'), param_scheduler=[
        dict(type='LinearLR', by_epoch=False), dict(type='PolyLR')])
    check_training(SimpleNamespace(cfg=cfg, hooks=[]))


@case
def checkpoints_by_epochs(bench, monkeypatch):
    cfg = dict(train_cfg=dict(type='IterBasedTrainLoop'))
    check_training(SimpleNamespace(cfg=cfg, hooks=[CheckpointHook(interval=1000)]))


@case
def score_that_is_not_reported(bench, monkeypatch):
    runner = SimpleNamespace(
        model=model_of(), hooks=[CheckpointHook(interval=1, save_best='mIoU')])
    TeacherStudentValLoop(runner, DataLoader([]), Evaluator([]))


@case
def delete_forgotten(bench, monkeypatch):
    check_config(Config(dict(model=dict(
        type='MeanTeacherReCo', segmentor={}, backbone={}, decode_head={}))))


@case
def option_of_the_stock_model(bench, monkeypatch):
    check_options(['model.decode_head.num_classes'], Config(dict(model=dict(segmentor={}))))


@case
def segmentor_of_their_own(bench, monkeypatch):
    model_of(dict(segmentor_config(), type='ImprovedEncoderDecoder'))


@case
def training_setting_unknown(bench, monkeypatch):
    model_of(semi_train_cfg=dict(weak_treshold=0.7))


@case
def strong_threshold_out_of_range(bench, monkeypatch):
    PseudoLabelLoss(strong_threshold=97)


@case
def weak_threshold_out_of_range(bench, monkeypatch):
    model_of(semi_train_cfg=dict(weak_threshold=70))


@case
def no_negatives(bench, monkeypatch):
    ReCoLoss(num_negatives=0)


@case
def temperature_zero(bench, monkeypatch):
    ReCoLoss(temperature=0)


@case
def momentum_out_of_range(bench, monkeypatch):
    HOOKS.build(dict(type='MeanTeacherHook', momentum=1.99))


@case
def head_without_conv_seg(bench, monkeypatch):
    segmentor = segmentor_config()
    segmentor.decode_head.type = 'HeadWithoutConvSeg'
    model_of(segmentor)


@case
def auxiliary_head_ignores_0(bench, monkeypatch):
    segmentor = segmentor_config()
    segmentor.auxiliary_head = dict(segmentor.decode_head, ignore_index=0)
    model_of(segmentor)


@case
def batch_without_branches(bench, monkeypatch):
    model_of().data_preprocessor(dict(inputs=[torch.zeros(3, 32, 32)], data_samples=[]), True)


@case
def two_crop_sizes(bench, monkeypatch):
    model_of().forward_student(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 24, 32))


# --------------------------------------------------------------------------- checkpoints and tools


def loaded(config: Path, **options) -> Config:
    return launch.load_config(str(config), options or None, str(config.parent / 'out'))


def run(config: Path, train: bool = True, **options) -> None:
    """What tools/train.py and tools/test.py do, in this process."""
    cfg = loaded(config, **options)
    cfg.experiment_name = f'{config.parent.name}_{options}'.replace('/', '_')[-80:]
    with safe_checkpoint_loading():
        runner = launch.build_runner(cfg)
        runner.train() if train else runner.test()


def weights(config: Path, **changes) -> Path:
    """A file with the weights of the tiny model of the config."""
    cfg = loaded(config, **changes)
    launch.batch_norm_for_cpu(cfg)
    file = config.parent / 'weights.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), file)
    return file


@case
def checkpoint_of_another_method(bench, monkeypatch, config):
    file = weights(config)
    state = torch.load(file, weights_only=True)['state_dict']
    torch.save(dict(state_dict={f'student.{key}': value for key, value in state.items()}), file)
    run(config, load_from=str(file))


@case
def checkpoint_of_a_backbone(bench, monkeypatch, config):
    torch.save(dict(conv1=torch.zeros(3)), config.parent / 'backbone.pth')
    run(config, train=False, load_from=str(config.parent / 'backbone.pth'))


@case
def checkpoint_of_other_classes(bench, monkeypatch, config):
    file = weights(config, **{'model.decode_head.num_classes': 21})
    run(config, train=False, load_from=str(file))


@case
def checkpoint_of_half_the_model(bench, monkeypatch, config):
    file = weights(config)
    state = torch.load(file, weights_only=True)['state_dict']
    torch.save({key: value for key, value in state.items() if 'decode_head' in key}, file)
    run(config, train=False, load_from=str(file))


@case
def checkpoint_cut_short(bench, monkeypatch, config):
    file = weights(config)
    file.write_bytes(file.read_bytes()[:5000])
    run(config, load_from=str(file))


@case
def checkpoint_with_objects(bench, monkeypatch, config):
    torch.save(dict(state_dict={}, meta=SimpleNamespace()), config.parent / 'objects.pth')
    run(config, load_from=str(config.parent / 'objects.pth'))


@case
def checkpoint_missing(bench, monkeypatch, config):
    run(config, load_from=str(config.parent / 'gone.pth'))


@case
def checkpoint_to_resume_gone(bench, monkeypatch):
    bench.write('last_checkpoint', 'iter_400.pth')
    latest_checkpoint(bench.root)


@case
def work_dir_is_read_only(bench, monkeypatch, config):
    def refuse(**kwargs):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(launch.tempfile, 'TemporaryFile', refuse)
    run(config)


@case
def work_dir_is_a_file(bench, monkeypatch, config):
    (config.parent / 'out').write_text('')
    run(config)


@case
def amp_of_several_optimizers(bench, monkeypatch, config):
    cfg = loaded(config)
    cfg.optim_wrapper.type = 'OptimWrapperDict'
    launch.enable_amp(cfg)


@case
def more_processes_than_gpus(bench, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setenv('LOCAL_RANK', '1')
    launch.check_gpu_count()


def rows() -> dict[str, str]:
    """The quoted messages of the table, by case."""
    return dict(re.findall(r'^\| `([a-z0-9-]+)` \|[^|]+\| ([^|]+) \|$', DOC.read_text(), re.M))


@pytest.mark.parametrize('name', CASES)
def test_message(name, tmp_path, monkeypatch, request):
    function = CASES[name]
    takes = function.__code__.co_varnames[:function.__code__.co_argcount]
    config = {'config': request.getfixturevalue('tiny_config')} if 'config' in takes else {}
    (tmp_path / 'data').mkdir()
    with pytest.raises(Exception) as error:  # noqa: B017  the text is what counts
        function(Bench(tmp_path / 'data'), monkeypatch, **config)
    text = ' '.join(str(error.value).split())
    position = 0
    for piece in rows()[name].split('…'):
        found = text.find(piece.strip(), position)
        assert found >= 0, f'{piece!r} is not in the message, or not there: {text}'
        position = found + len(piece.strip())


def test_the_table_has_every_case_and_no_other():
    assert list(rows()) == list(CASES) and len(CASES) >= 25


def test_paths_with_blanks_and_letters_of_all_languages(tmp_path):
    root = tmp_path / 'my data ü 東京'
    root.mkdir()
    bench = Bench(root)
    for name, new in (('a', 'ein Bild'), ('c', '道 1')):
        bench.image(name).rename(bench.image(new))
        bench.mask(name).rename(bench.mask(new))
    bench.write('labeled list.txt', 'ein Bild\n')
    bench.write('unlabeled.txt', '道 1\nd\n')
    data = bench.semi(labeled='labeled list.txt')
    bench.check(data)
    assert data[0]['data_samples']['sup'].img_path == str(bench.image('ein Bild'))
    assert data[1]['inputs']['unsup'].shape == (3, 64, 96)


def test_the_same_images_labelled_and_unlabelled_is_allowed(tmp_path, capsys):
    """With complete labels hidden, the labelled images may be among the unlabelled ones."""
    bench = Bench(tmp_path)
    bench.check(bench.semi(unlabeled='labeled.txt'))
    assert '2 images of train.labeled are in train.unlabeled too' in capsys.readouterr().out


def test_weights_of_other_classes_may_start_a_training(tiny_config):
    run(tiny_config, load_from=str(weights(tiny_config, **{'model.decode_head.num_classes': 21})))
