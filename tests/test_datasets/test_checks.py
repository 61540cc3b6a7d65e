# Licensed under the Apache License, Version 2.0.
from pathlib import Path
from types import SimpleNamespace

import mmseg
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image
from test_all_heads import CASES, VARIANTS

from mmseg_reco.datasets.checks import (
    _heads,
    check_branches,
    check_dataset,
    check_files,
    check_losses,
    check_num_classes,
    check_overlaps,
    check_pair,
    leaf_datasets,
    quick_check,
)

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
CLASSES = ('road', 'tree', 'car')


@pytest.fixture
def root(tmp_path):
    """Four good pairs, a-d: 6x4 pixels, mask values 0-2 and 255."""
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    for number, name in enumerate('abcd'):
        mask = np.full((4, 6), 255, np.uint8)
        mask[0, :2], mask[1, :4], mask[2, :number] = 0, 1, 2
        Image.fromarray(mask).save(tmp_path / 'masks' / f'{name}.png')
        Image.new('RGB', (6, 4)).save(tmp_path / 'images' / f'{name}.jpg')
    return tmp_path


def config_of(root, names=None, **more):
    config = dict(type='BaseSegDataset', data_root=str(root), metainfo=dict(classes=CLASSES),
                  serialize_data=False,
                  data_prefix=dict(img_path='images', seg_map_path='masks'), pipeline=PIPELINE)
    if names is not None:
        (root / f'{names}.txt').write_text('\n'.join(names))
        config['ann_file'] = f'{names}.txt'
    return {**config, **more}


def build(*arguments, **more):
    return DATASETS.build(config_of(*arguments, **more))


def semi(root, labeled='ab', unlabeled='cd'):
    for names in (labeled, unlabeled):
        (root / f'{names}.txt').write_text('\n'.join(names))
    return DATASETS.build(dict(
        type='LabeledUnlabeledDataset', dataset=config_of(root),
        labeled=f'{labeled}.txt', unlabeled=f'{unlabeled}.txt'))


def texts(problems):
    return [text for _, text in problems]


def test_good_data_and_their_statistics(root):
    report = check_dataset(build(root), 'train', workers=2)
    assert report.problems == [] and report.num_images == 4
    assert report.pixels.tolist() == [8, 16, 6] and report.ignored == 4 * 24 - 30
    assert report.absent == []
    assert check_dataset(build(root, 'a'), 'train').absent == ['car']
    assert quick_check(build(root, 'ab'), build(root, 'cd')) == ([], [])


@pytest.mark.parametrize(('change', 'text'), [
    (lambda mask: mask.resize((6, 5)), 'mask is 6x5, but its image 6x4'),
    (lambda mask: mask.convert('RGB'), "mode 'RGB'"),
    (lambda mask: Image.fromarray(np.asarray(mask).astype(np.uint16)), "mode 'I;16'"),
    (lambda mask: mask.convert('LA'), "mode 'LA'"),
    (lambda mask: mask.point(lambda value: 3 if value == 2 else value), 'labels 3 are neither'),
])
def test_bad_masks(root, change, text):
    path = root / 'masks' / 'd.png'
    change(Image.open(path)).save(path)
    problems = check_dataset(build(root), 'train').problems
    assert [problem.file for problem in problems] == [str(path)] and text in problems[0].text
    # the quick check looks at all pairs of a short list
    assert quick_check(build(root, 'abdc'))[0] == problems


def test_float_mask(root):
    Image.fromarray(np.zeros((4, 6), np.float32)).save(root / 'masks' / 'a.tiff')
    data = build(root, 'a', seg_map_suffix='.tiff')
    assert "mode 'F'" in check_dataset(data, 'train').problems[0].text


def test_unreadable_files(root):
    (root / 'masks' / 'b.png').write_bytes((root / 'masks' / 'b.png').read_bytes()[:40])
    (root / 'images' / 'c.jpg').write_bytes(b'no image')
    problems = check_dataset(build(root), 'train').problems
    assert [(file[-5:], text.split(':')[0]) for file, text in problems] == [
        ('b.png', 'mask cannot be read'), ('c.jpg', 'image cannot be read')]


def test_damaged_images(root):
    image = root / 'images' / 'b.jpg'
    image.write_bytes(image.read_bytes()[:-30])
    (root / 'images' / 'c.jpg').write_bytes(b'')
    found = check_dataset(build(root), 'train').problems
    assert [(file[-5:], text) for file, text in found] == [
        ('b.jpg', 'image cannot be read: the file is cut short'),
        ('c.jpg', 'image cannot be read: the file is empty')]
    assert quick_check(build(root))[0] == found


def test_pngs_with_a_hole(root):
    """Pillow calls them a SyntaxError."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 99, (600, 600), dtype=np.uint8))
    for file in ('images/a.png', 'masks/b.png'):
        noise.save(root / file)
        data = bytearray((root / file).read_bytes())
        data[len(data) // 4:len(data) // 4 * 3] = bytes(len(data) // 4 * 2)
        (root / file).write_bytes(data)
    for file in ('masks/a.png', 'images/b.png'):
        Image.new('L', (600, 600)).save(root / file)
    problems = check_dataset(build(root, 'ab', img_suffix='.png'), 'train').problems
    assert [(file[-12:], text.split(':')[0]) for file, text in problems] == [
        ('images/a.png', 'image cannot be read'), ('/masks/b.png', 'mask cannot be read')]


def test_unreadable_folder(root, monkeypatch):
    """The one test of permissions that also works for an administrator."""
    def refuse(folder, **kwargs):
        raise PermissionError(13, 'Permission denied', folder)

    data = build(root, 'abcd')
    monkeypatch.setattr('mmseg_reco.datasets.checks.list_files', refuse)
    assert check_files(data, 'train') == [
        (str(root / 'images'), 'the folder of 4 images cannot be read: Permission denied'),
        (str(root / 'masks'), 'the folder of 4 masks cannot be read: Permission denied')]


def test_names_with_suffixes(root):
    (root / 'names.txt').write_text('a.jpg\nx')
    found = check_files(build(root, ann_file='names.txt'), 'train')
    assert found[0].file.endswith('a.jpg.jpg') and 'without their suffix' in found[0].text
    assert found[1] == (str(root / 'images' / 'x.jpg'), 'image is missing')


def test_lists_that_mmseg_reads_otherwise(root):
    for text, hint in (('a\n\nb', 'holds an empty line'), ('\ufeffa\nb', 'byte order mark'),
                       ('images/a.jpg masks/a.png\nb', 'without their suffix')):
        (root / 'names.txt').write_text(text, encoding='utf-8')
        image, mask = check_files(build(root, ann_file='names.txt'), 'train')
        assert hint in image.text and 'missing' in mask.text


def test_branches(root):
    model = dict(type='MeanTeacherReCo', segmentor=dict())
    both, stock = semi(root), build(root)
    assert check_branches(leaf_datasets(both, 'train'), model) == []
    assert check_branches(leaf_datasets(stock, 'train'), dict(decode_head=dict())) == []
    assert check_branches(leaf_datasets(stock, 'train'), None) == []
    for data, missing in ((stock, ['sup', 'unsup']), (both.datasets[0], ['unsup'])):
        found = check_branches(leaf_datasets(data, 'train'), model)
        assert [text.split("'")[1] for text in texts(found)] == missing
        assert 'LabeledUnlabeledDataset' in found[0].text
    assert quick_check(stock, model=model)[0] == check_branches({'train': stock}, model)


def test_missing_files(root):
    (root / 'images' / 'b.jpg').unlink()
    (root / 'masks' / 'c.png').unlink()
    data = build(root, 'abcd')
    assert [(file[-5:], text) for file, text in check_dataset(data, 'train').problems] == [
        ('b.jpg', 'image is missing'), ('c.png', 'mask is missing')]
    elsewhere = build(root, 'ab', data_prefix=dict(img_path='images', seg_map_path='nowhere'))
    assert texts(check_files(elsewhere, 'x')) == ['image is missing', *['mask is missing'] * 2]
    none = build(root, 'a', data_prefix=dict(img_path='images'))
    assert 'no data_prefix.seg_map_path' in check_files(none, 'x')[0].text


def test_empty_and_duplicate_lists(root):
    (problem,) = check_files(build(root, ''), 'train')
    assert problem == (str(root / '.txt'), 'train holds no image')
    (problem,) = check_files(build(root, 'abab'[:3]), 'train')
    assert problem.file.endswith('a.jpg') and 'listed 2 times' in problem.text


def test_labels_are_judged_after_mapping(root):
    """With reduce_zero_label the values 0-2 become ignored, 0, 1; with two of the classes named,
    the third is ignored."""
    reduced = check_dataset(build(root, reduce_zero_label=True), 'train')
    assert reduced.problems == [] and reduced.pixels.tolist() == [16, 6, 0]

    voc = dict(type='PascalVOCDataset', metainfo=dict(classes=('bicycle', 'aeroplane')))
    mapped = check_dataset(build(root, 'abcd', **voc), 'train')
    assert mapped.problems == [] and mapped.pixels.tolist() == [6, 16]

    void = np.asarray(Image.open(root / 'masks' / 'a.png')).copy()
    void[void == 255] = 11
    Image.fromarray(void).save(root / 'masks' / 'a.png')
    camvid = check_dataset(build(root, 'a', type='CamVidDataset', metainfo=None), 'train')
    assert camvid.problems == [] and camvid.ignored == 18
    assert texts(check_dataset(build(root, 'a'), 'train').problems) == [
        'labels 11 are neither one of the 3 classes nor ignored']


def test_counts_agree_with_the_loader(root):
    for kind in (dict(), dict(reduce_zero_label=True),
                 dict(type='CamVidDataset', metainfo=dict(classes=('pole', 'sky')))):
        data = build(root, **kind)
        for index in range(4):
            counts, _ = check_pair(data, data.get_data_info(index))
            loaded = data[index]['data_samples'].gt_sem_seg.data.numpy()
            np.testing.assert_array_equal(counts, np.bincount(loaded.ravel(), minlength=256))


def test_photograph_turned_upright(root):
    exif = Image.Exif()
    exif[274] = 6
    Image.new('RGB', (4, 6)).save(root / 'images' / 'a.jpg', exif=exif)
    data = build(root, 'a')
    assert data[0]['inputs'].shape == (3, 4, 6)  # as mmcv loads it
    assert check_dataset(data, 'train').problems == []


def test_overlaps(root):
    train, val = semi(root, 'ab', 'bcd'), build(root, 'ad')
    parts = leaf_datasets(train, 'train')
    assert list(parts) == ['train.labeled', 'train.unlabeled']
    problems, remarks = check_overlaps(parts, leaf_datasets(val, 'val'))
    assert [(file[-5:], text) for file, text in problems] == [
        ('a.jpg', 'in train.labeled and in val')]
    assert remarks == ['1 images without labels of train.unlabeled are in val too.',
                       '1 images of train.labeled are in train.unlabeled too.']
    assert check_overlaps(leaf_datasets(build(root, 'ab'), 'train'), {}) == ([], [])


def test_all_unlabelled_images_among_the_labelled_ones(root):
    """Without a list of the labelled images, which the first half is then not."""
    both = DATASETS.build(dict(type='LabeledUnlabeledDataset', dataset=config_of(root, 'abcd'),
                               unlabeled='abcd.txt'))
    assert check_overlaps(leaf_datasets(both, 'train'), {})[1] == [
        '4 images of train.labeled are in train.unlabeled too, and no others. Where that is not '
        'meant, LabeledUnlabeledDataset lacks its labeled=.']


def test_labels_that_say_nothing(root):
    for name, labels in dict(a=(0, 255), b=(255, 255), c=(0, 1)).items():
        Image.fromarray(np.repeat(np.uint8([labels]), 3, 1)).resize((6, 4)).save(
            root / 'masks' / f'{name}.png')
    problem = 'no pixel of the 1 masks that were read has a class: all are ignored (255)'
    assert quick_check(build(root, 'b'))[0] == [('train', problem)]
    assert check_dataset(build(root, 'b'), 'x').problems == [('x', problem)]
    hint = (' All its other pixels are ignored (255): if 255 stands for a class in its masks, '
            'save them with 1 in its place.')
    for names, text in (('ab', f'tree, car.{hint}'), ('ac', 'car.'), ('bd', None)):
        remarks = [f'train has no pixel of: {text}'] if text else []
        assert quick_check(build(root, names)) == ([], remarks)
        assert check_dataset(build(root, names), 'train').remarks == remarks
    # hidden masks are not trained on, and may be empty
    assert quick_check(semi(root, 'd', 'b')) == ([], [])


def test_rare_classes_may_be_in_the_masks_that_are_not_read(root, monkeypatch):
    monkeypatch.setattr('mmseg_reco.datasets.checks.QUICK_PAIRS', 2)
    for name in 'bc':
        Image.new('L', (6, 4), 1).save(root / 'masks' / f'{name}.png')
    assert quick_check(build(root, 'bc'))[1] == ['train has no pixel of: road, car.']
    assert quick_check(build(root, 'bac'))[1] == []
    for name in 'bc':
        Image.new('L', (6, 4), 0).save(root / 'masks' / f'{name}.png')
    assert quick_check(build(root, 'bac'))[1] == [
        'train has no pixel of: tree, car, in the 2 masks that were read.']


def test_hidden_masks_may_be_missing_but_not_wrong(root):
    (root / 'masks' / 'c.png').unlink()
    mask = root / 'masks' / 'd.png'
    Image.open(mask).resize((3, 3)).save(mask)
    unlabeled = semi(root).datasets[1]
    assert texts(check_dataset(unlabeled, 'u').problems) == ['mask is 3x3, but its image 6x4']


def test_wrappers(root):
    stock = config_of(root)
    data = DATASETS.build(dict(type='PartialLabelDataset', level='p0', dataset=dict(
        type='RepeatDataset', times=3,
        dataset=dict(type='ConcatDataset', datasets=[stock, stock]))))
    parts = leaf_datasets(data, 'train')
    assert list(parts) == ['train.0', 'train.1']
    assert all(check_dataset(part, name).num_images == 4 for name, part in parts.items())


def test_num_classes(root):
    parts = dict(train=build(root))
    right, wrong = dict(num_classes=3), dict(num_classes=19)
    for model, place in (
            (dict(decode_head=wrong, auxiliary_head=None), 'model.decode_head'),
            (dict(segmentor=dict(decode_head=[wrong, right])), 'model.segmentor.decode_head[0]'),
            (dict(decode_head=right, auxiliary_head=[right, wrong]), 'model.auxiliary_head[1]'),
            (dict(decode_head=dict(kernel_generate_head=wrong, kernel_update_head=[right])),
             'model.decode_head.kernel_generate_head')):
        assert check_num_classes(parts, model) == [
            ('train', f'has 3 classes, but {place}.num_classes=19: make them equal')]
    edges = dict(type='STDCHead', num_classes=2)
    for model in (None, dict(decode_head=right, auxiliary_head=[edges]), dict(backbone=wrong)):
        assert check_num_classes(parts, model) == []


def test_losses():
    def check(**head):
        return check_losses(dict(segmentor=dict(auxiliary_head=[dict(num_classes=3, **head)])))

    few = dict(type='CrossEntropyLoss', class_weight=[1., 2.])
    place = 'model.segmentor.auxiliary_head[0].loss_decode'
    assert [problem.file for problem in check(loss_decode=few)] == [f'{place}.class_weight']
    assert [problem.file for problem in check(loss_decode=[dict(type='X'), few])] == [
        f'{place}[1].class_weight']
    for weight in (None, [1.] * 3, 'weights.npy'):
        assert check(loss_decode=dict(few, class_weight=weight)) == []
    assert check(loss_decode=dict(few, use_sigmoid=True)) == check() == []


@pytest.mark.skipif(mmseg.__version__ != '1.2.2', reason='its shipped configs')
def test_heads_of_shipped_configs_agree():
    """One config of each family, whose heads have one number of classes but for edges."""
    folder = Path(mmseg.__file__).parent / '.mim/configs'
    for case in [*CASES, *VARIANTS]:
        model = Config.fromfile(folder / case.config, import_custom_modules=False).model
        counts = [head['num_classes'] for place, head in _heads(model)]
        data = SimpleNamespace(metainfo=dict(classes=range(max(counts, default=0))))
        assert check_num_classes(dict(train=data), model) == [], case.config
        if case.family != 'san':
            assert check_losses(model) == [], case.config


def test_quick_check_of_a_large_dataset(root):
    """A hundred thousand names, of which all files but the first are missing."""
    (root / 'long.txt').write_text('\n'.join(['a', *map(str, range(100_000))]))
    data = build(root, ann_file='long.txt', serialize_data=True)
    problems, _ = quick_check(data)
    assert len(problems) == 200_000
