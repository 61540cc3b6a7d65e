# Licensed under the Apache License, Version 2.0.
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.datasets.transforms import LoadAnnotations  # noqa: F401, registers it
from mmseg.registry import TRANSFORMS
from PIL import Image
from scipy.io import savemat

from mmseg_reco.datasets.partial_labels import image_rng, sparsify
from mmseg_reco.datasets.splits import select_by_class, select_labeled, select_random

TOOLS = Path('tools/dataset_converters').resolve()
PALETTE = [value for index in range(256) for value in (index, 255 - index, 7)]


@pytest.fixture
def convert(monkeypatch):
    """Runs a converter as its command line does, in this process."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def run(tool, *arguments):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')

    return run


def write_image(path, array, palette=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(palette)
    image.save(path, **options)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.fixture
def masks(tmp_path):
    """Six palette masks, one of them in a subfolder."""
    rng = np.random.default_rng(0)
    for name in ('a', 'b', 'c', 'd', 'e', 'sub/f'):
        labels = np.kron(rng.choice([0, 1, 2, 3, 4, 255], (4, 5)), np.ones((5, 5)))
        write_image(tmp_path / f'masks/{name}.png', labels.astype(np.uint8), PALETTE)
    return tmp_path / 'masks'


class TestPartialLabels:
    def test_result(self, convert, masks, tmp_path):
        before = files_of(masks)
        convert('partial_labels', masks, tmp_path / 'out', '--levels', 'p0', 'p5', '--seeds', 0, 7)
        assert len(files_of(tmp_path / 'out')) == 6 * 2 * 2
        for level in ('p0', 'p5'):
            for seed in (0, 7):
                for name in ('a', 'sub/f'):
                    complete = np.array(Image.open(masks / f'{name}.png'))
                    written = Image.open(tmp_path / f'out/{level}_{seed}/{name}.png')
                    assert written.mode == 'P' and written.getpalette() == PALETTE
                    rng = image_rng(seed, name[-1])
                    np.testing.assert_array_equal(written, sparsify(complete, level, rng))
        assert files_of(masks) == before

    @pytest.mark.parametrize(
        'void, labels',
        [
            (255, dict(reduce_zero_label=False)),
            (0, dict(reduce_zero_label=True)),  # as SUN RGB-D
            (4, dict(reduce_zero_label=False, label_map={4: 255})),  # as CamVid
        ],
    )
    def test_equals_the_transform(self, convert, masks, tmp_path, void, labels):
        out = tmp_path / 'out'
        for path in masks.rglob('*.png'):  # one void label per dataset
            stored = np.array(Image.open(path))
            stored[stored == 255] = void
            write_image(path, stored)
        arguments = masks, out, '--levels', 'p5', '--seeds', 3, '--ignore-index', void
        convert('partial_labels', *arguments)
        load = TRANSFORMS.build(dict(type='LoadAnnotations'))
        sparsify_labels = TRANSFORMS.build(dict(type='SparsifyLabels', level='p5', seed=3))
        for name in ('a', 'b', 'sub/f'):
            on_the_fly = sparsify_labels(
                load(dict(seg_map_path=str(masks / f'{name}.png'), seg_fields=[], **labels))
            )
            written = load(
                dict(seg_map_path=str(out / f'p5_3/{name}.png'), seg_fields=[], **labels)
            )
            np.testing.assert_array_equal(written['gt_seg_map'], on_the_fly['gt_seg_map'])

    def test_any_number_of_workers(self, convert, masks, tmp_path):
        """As a user starts it: two processes give what one gives."""
        command = [sys.executable, str(TOOLS / 'partial_labels.py'), masks, tmp_path / 'two']
        subprocess.run(
            [*command, '--levels', 'p5', '--workers', '2'],
            check=True,
            env={**os.environ, 'PYTHONPATH': os.getcwd()},
        )
        convert('partial_labels', masks, tmp_path / 'one', '--levels', 'p5')
        assert files_of(tmp_path / 'one') == files_of(tmp_path / 'two')
        assert len(files_of(tmp_path / 'one')) == 6 * 3

    def test_goes_on_where_it_stopped(self, convert, masks, tmp_path, capsys):
        out = tmp_path / 'out'
        arguments = masks, out, '--levels', 'p0', 'p25', '--seeds', 0
        convert('partial_labels', *arguments)
        finished = files_of(out)
        (out / 'p0_0/b.png').unlink()
        (out / 'p25_0/c.png').write_bytes(b'left alone')
        capsys.readouterr()
        convert('partial_labels', *arguments)
        assert '1 masks written, 11 were there' in capsys.readouterr().out
        assert files_of(out) == {**finished, 'p25_0/c.png': b'left alone'}

    def test_interrupted_write_leaves_nothing(self, convert, masks, tmp_path, monkeypatch):
        def full_disk(source, target):
            raise OSError('no space')

        monkeypatch.setattr(os, 'replace', full_disk)
        with pytest.raises(SystemExit, match='no space'):
            convert('partial_labels', masks, tmp_path / 'out')
        assert not files_of(tmp_path / 'out')

    @pytest.mark.parametrize(
        'array, mode',
        [(np.zeros((4, 4, 3), np.uint8), 'RGB'), (np.zeros((4, 4), np.uint16), 'I;16')],
    )
    def test_refuses_other_images(self, convert, masks, tmp_path, array, mode):
        write_image(masks / 'odd.png', array)
        with pytest.raises(SystemExit, match=f"odd.png is an image of mode '{mode}"):
            convert('partial_labels', masks, tmp_path / 'out')

    def test_refuses_what_is_no_image(self, convert, masks, tmp_path):
        (masks / 'odd.png').write_bytes(b'<html>')
        with pytest.raises(SystemExit, match='odd.png cannot be read'):
            convert('partial_labels', masks, tmp_path / 'out')

    def test_refuses_arguments(self, convert, masks, tmp_path):
        (tmp_path / 'empty').mkdir()
        with pytest.raises(SystemExit, match="holds no file that ends in '.png'"):
            convert('partial_labels', tmp_path / 'empty', tmp_path / 'out')
        with pytest.raises(SystemExit, match='is not a folder'):
            convert('partial_labels', tmp_path / 'none', tmp_path / 'out')
        with pytest.raises(SystemExit, match="level 'half'"):
            convert('partial_labels', masks, tmp_path / 'out', '--levels', 'half')
        for inside in (masks, masks / 'partial'):
            with pytest.raises(SystemExit, match='lies inside MASK_DIR'):
                convert('partial_labels', masks, inside)
        assert not (tmp_path / 'out').exists()


class TestMakeSplits:
    NAMES = ('a', 'b', 'c', 'd', 'e', 'sub/f')

    def class_sets(self, masks):
        return {
            name: set(np.unique(np.array(Image.open(masks / f'{name}.png'))).tolist()) - {255}
            for name in self.NAMES
        }

    @pytest.fixture
    def listed(self, masks, tmp_path):
        path = tmp_path / 'train.txt'
        path.write_text('\n'.join(self.NAMES))
        return masks, '--list', path, '--out', tmp_path / 'out'

    @pytest.mark.parametrize(
        'options, select',
        [
            (['--min-classes', 2], lambda *args: select_labeled(*args, min_classes=2)),
            (['--strategy', 'per-class', '--workers', 2], select_by_class),
            (['--strategy', 'random'], lambda names, _, *args: select_random(names, *args)),
        ],
    )
    def test_result(self, convert, listed, masks, tmp_path, options, select):
        convert('make_splits', *listed, '--num-labeled', 2, 3, '--seeds', 0, 1, *options)
        assert len(files_of(tmp_path / 'out')) == 8
        for num_labeled in (2, 3):
            for seed in (0, 1):
                folder = tmp_path / f'out/{num_labeled}/{seed}'
                labeled = (folder / 'labeled.txt').read_text().splitlines()
                assert labeled == select(self.NAMES, self.class_sets(masks), num_labeled, seed)
                unlabeled = (folder / 'unlabeled.txt').read_text().splitlines()
                assert unlabeled == [name for name in self.NAMES if name not in labeled]

    def test_list_of_pairs(self, convert, masks, tmp_path):
        pairs = tmp_path / 'pairs.txt'
        pairs.write_text(''.join(f'/X/train/{n}.png /X/trainannot/{n}.png\n' for n in 'abc'))
        convert(
            'make_splits', masks, '--list', pairs, '--out', tmp_path / 'out', '--num-labeled', 1
        )
        split = (tmp_path / 'out/1/0/labeled.txt').read_text().split()
        split += (tmp_path / 'out/1/0/unlabeled.txt').read_text().split()
        assert sorted(split) == ['a', 'b', 'c']

    def test_void_plays_no_part(self, convert, tmp_path):
        # raw labels 0 (void), 1, 2 and 255: only the image with both 1 and 2 has two classes
        for name, values in (('a', [0, 1]), ('b', [1, 2]), ('c', [0, 2, 255, 255])):
            labels = np.tile(np.array(values, np.uint8), (3, 2))
            write_image(tmp_path / f'masks/{name}.png', labels)
        (tmp_path / 'train.txt').write_text('a\nb\nc\n')
        arguments = ['make_splits', tmp_path / 'masks', '--list', tmp_path / 'train.txt']
        arguments += ['--out', tmp_path / 'out', '--min-classes', 2, '--reduce-zero-label']
        convert(*arguments, '--num-labeled', 1, '--seeds', 0, 1, 2, 3)
        for seed in range(4):
            assert (tmp_path / f'out/1/{seed}/labeled.txt').read_text() == 'b\n'
        with pytest.raises(SystemExit, match=r'class 0 \(background\), class 1 \(aeroplane\)'):
            convert(*arguments, '--num-labeled', 2, '--dataset', 'PascalVOCDataset')

    @pytest.mark.parametrize('strategy', ['class-balanced', 'per-class'])
    def test_labels_beyond_the_classes_are_refused(self, convert, tmp_path, strategy):
        for name in 'ab':  # 11 is void of CamVid
            write_image(tmp_path / f'masks/{name}.png', np.array([[0, 11]], np.uint8))
        (tmp_path / 'train.txt').write_text('a\nb\n')
        arguments = ['make_splits', tmp_path / 'masks', '--list', tmp_path / 'train.txt']
        arguments += ['--out', tmp_path / 'out', '--num-labeled', 1, '--strategy', strategy]
        arguments += ['--dataset', 'CamVidDataset']
        with pytest.raises(SystemExit, match='a.png shows class 11, .* with --ignore-index'):
            convert(*arguments)
        assert not (tmp_path / 'out').exists()
        convert(*arguments, '--ignore-index', 11)

    def test_refuses(self, convert, listed, masks, tmp_path):
        with pytest.raises(SystemExit, match='between 1 and 6'):
            convert('make_splits', *listed, '--num-labeled', 7)
        with pytest.raises(SystemExit, match='NoSuchDataset'):
            convert('make_splits', *listed, '--num-labeled', 1, '--dataset', 'NoSuchDataset')
        (masks / 'c.png').unlink()
        with pytest.raises(SystemExit, match=r'1 of the 6 masks .* missing, the first is .*c\.png'):
            convert('make_splits', *listed, '--num-labeled', 1)
        listed[2].write_text('a\nb\na\n')
        with pytest.raises(SystemExit, match="train.txt lists 'a' more than once"):
            convert('make_splits', *listed, '--num-labeled', 1)
        assert not (tmp_path / 'out').exists()


def test_a_mask_with_a_hole_is_named(convert, tmp_path):
    """Pillow calls it a SyntaxError."""
    noise = np.random.default_rng(0).integers(0, 9, (600, 600), dtype=np.uint8)
    write_image(tmp_path / 'masks/a.png', noise)
    data = bytearray((tmp_path / 'masks/a.png').read_bytes())
    data[len(data) // 4:len(data) // 4 * 3] = bytes(len(data) // 4 * 2)
    (tmp_path / 'masks/a.png').write_bytes(data)
    with pytest.raises(SystemExit, match='a.png cannot be read as an image'):
        convert('partial_labels', tmp_path / 'masks', tmp_path / 'out')


def test_voc_aug(convert, tmp_path):
    voc, sbd = tmp_path / 'VOC2012', tmp_path / 'benchmark_RELEASE/dataset'
    lists = voc / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('2007_2\n2007_1\n')
    (lists / 'val.txt').write_text('2007_3\n')
    labels = {name: np.full((4, 6), index, np.uint8) for index, name in enumerate('123', start=5)}
    for name, label in labels.items():
        write_image(voc / f'SegmentationClass/2007_{name}.png', label, PALETTE)
    (sbd / 'cls').mkdir(parents=True)
    (sbd / 'train.txt').write_text('2008_9\n2007_1\n')
    (sbd / 'val.txt').write_text('2008_8\n2007_3\n')
    for name in ('2008_9', '2008_8', '2007_1', '2007_3'):
        segmentation = np.full((4, 6), 15, np.uint8)
        savemat(sbd / f'cls/{name}.mat', {'GTcls': {'Segmentation': segmentation}})

    convert('voc_aug', voc, sbd)
    assert (lists / 'train_aug.txt').read_text() == '2007_1\n2007_2\n2008_8\n2008_9\n'
    assert (lists / 'val.txt').read_text() == '2007_3\n'
    masks = {path.stem: Image.open(path) for path in (voc / 'SegmentationClassAug').iterdir()}
    assert {name: np.unique(mask).tolist() for name, mask in masks.items()} == {
        '2007_1': [5],
        '2007_2': [6],
        '2007_3': [7],
        '2008_8': [15],
        '2008_9': [15],
    }
    assert all(mask.getpalette() == PALETTE for mask in masks.values())

    (voc / 'SegmentationClassAug/2008_9.png').unlink()
    mat = sbd / 'cls/2008_9.mat'
    whole = mat.read_bytes()
    savemat(mat, {'other': 1})
    for bad in (whole[:len(whole) // 2], b'<html>' * 100, b'', mat.read_bytes()):
        mat.write_bytes(bad)
        with pytest.raises(SystemExit, match='2008_9.mat cannot be read as a mask of SBD'):
            convert('voc_aug', voc, sbd)
    mat.unlink()
    with pytest.raises(SystemExit, match='2008_9.mat is missing'):
        convert('voc_aug', voc, sbd)


def test_cityscapes(convert, tmp_path):
    root, out = tmp_path / 'cityscapes', tmp_path / 'out'
    # every label id there is, and hardly a pixel like its neighbour
    ids = np.tile(np.random.default_rng(0).integers(0, 34, (32, 64), np.uint8), (32, 32))
    for part, city, name in (
        ('train', 'ulm', 'ulm_0'),
        ('train', 'aachen', 'aachen_1'),
        ('val', 'munster', 'munster_2'),
    ):
        image = np.dstack([ids * 7, ids, 255 - ids])
        write_image(root / f'leftImg8bit/{part}/{city}/{name}_leftImg8bit.png', image)
        write_image(root / f'gtFine/{part}/{city}/{name}_gtFine_labelIds.png', ids)
    convert('cityscapes', root, '--out', out, '--workers', 2)
    assert sorted(files_of(out)) == [
        'images/train/aachen_1.png', 'images/train/ulm_0.png', 'images/val/munster_2.png',
        'labels/train/aachen_1.png', 'labels/train/ulm_0.png', 'labels/val/munster_2.png',
        'train.txt', 'val.txt',
    ]  # fmt: skip
    assert (out / 'train.txt').read_text() == 'aachen_1\nulm_0\n'
    assert (out / 'val.txt').read_text() == 'munster_2\n'
    image, labels = (
        Image.open(out / 'images/train/ulm_0.png'),
        Image.open(out / 'labels/train/ulm_0.png'),
    )
    assert image.size == labels.size == (1024, 512) and (image.mode, labels.mode) == ('RGB', 'L')
    # the evaluated classes by name, from the table of the Cityscapes scripts
    train_ids = {
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
        24: 11,
        25: 12,
        26: 13,
        27: 14,
        28: 15,
        31: 16,
        32: 17,
        33: 18,
    }
    nearest = ids[1::2, 1::2]
    assert len(np.unique(nearest)) == 34
    expected = np.array([train_ids.get(label_id, 255) for label_id in range(34)])
    np.testing.assert_array_equal(np.array(labels), expected[nearest])
    pixels = torch.tensor(np.stack([ids * 7, ids, 255 - ids])).float()
    bilinear = torch.nn.functional.interpolate(
        pixels[None], (512, 1024), mode='bilinear', antialias=True)[0].movedim(0, -1)
    np.testing.assert_allclose(np.array(image), bilinear, atol=1.1)  # rounded in each direction

    with pytest.raises(SystemExit, match='leftImg8bit_trainvaltest.zip'):
        convert('cityscapes', tmp_path / 'nowhere', '--out', out)


class TestSUNRGBD:
    @pytest.fixture
    def root(self, tmp_path):
        root = tmp_path / 'sun'
        for folder, number, label_number in (
            ('train', 1, 5051), ('train', 2, 5052), ('test', 1, 1), ('test', 2, 2), ('test', 3, 3),
        ):  # fmt: skip
            # brightness and label tell which pair this is
            image = np.full((530, 730, 3), 40 * number + (folder == 'train'), np.uint8)
            path = root / f'SUNRGBD-{folder}_images/img-{number:06d}.jpg'
            write_image(path, image, quality=100)
            labels = np.zeros((530, 730), np.uint8)
            labels[:, 365:] = 10 * number + (folder == 'train')
            write_image(root / f'sunrgbd_train_test_labels/img-{label_number:06d}.png', labels)
        return root

    def pairs(self, out):
        pairs = {}
        for path in sorted(out.glob('images/*/*.jpg')):
            part, name = path.parent.name, path.stem
            image = Image.open(path)
            labels = Image.open(out / f'labels/{part}/{name}.png')
            assert image.size == labels.size == (512, 384)
            assert np.unique(np.array(labels)[:, :256]).tolist() == [0]
            label = np.unique(np.array(labels)[:, 256:])
            pairs[f'{part}/{name}'] = (np.array(image).mean().round().item(), *label.tolist())
        for part in ('train', 'test'):
            names = (out / f'{part}.txt').read_text().splitlines()
            assert [f'{part}/{name}' for name in names] == [key for key in pairs if part in key]
        return pairs

    def test_official_split(self, convert, root, tmp_path):
        convert('sunrgbd', root, '--out', tmp_path / 'out', '--workers', 2)
        assert self.pairs(tmp_path / 'out') == {
            'train/img-005051': (41, 11), 'train/img-005052': (81, 21),
            'test/img-000001': (40, 10), 'test/img-000002': (80, 20), 'test/img-000003': (120, 30),
        }  # fmt: skip

    def test_split_of_the_paper(self, convert, root, tmp_path):
        (tmp_path / 'test_idx.txt').write_text('2\n')
        arguments = root, '--out', tmp_path / 'out', '--test-index', tmp_path / 'test_idx.txt'
        convert('sunrgbd', *arguments)
        assert list(self.pairs(tmp_path / 'out')) == [
            'test/img-000002', 'train/img-000001', 'train/img-000003', 'train/img-005051',
            'train/img-005052',
        ]  # fmt: skip
        (tmp_path / 'test_idx.txt').write_text('2\n9\n')
        with pytest.raises(SystemExit, match='lists 9, which is no test image'):
            convert('sunrgbd', *arguments)

    def test_image_and_mask_stay_aligned(self, convert, root, tmp_path):
        rng = np.random.default_rng(0)
        blocks = rng.integers(0, 37, (53, 73), dtype=np.uint8)
        labels = blocks.repeat(10, 0).repeat(10, 1)
        image_path = root / 'SUNRGBD-train_images/img-000001.jpg'
        write_image(image_path, np.stack([labels * 6] * 3, -1), quality=100)
        write_image(root / 'sunrgbd_train_test_labels/img-005051.png', labels)
        convert('sunrgbd', root, '--out', tmp_path / 'out')

        resized = np.array(Image.open(tmp_path / 'out/labels/train/img-005051.png'))
        rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int)
                         for new, old in ((384, 530), (512, 730)))
        np.testing.assert_array_equal(resized, labels[rows[:, None], columns])
        pixels = torch.tensor(np.array(Image.open(image_path))).float().movedim(-1, 0)
        image = np.array(Image.open(tmp_path / 'out/images/train/img-005051.jpg'))
        bilinear, bicubic = (
            np.abs(image - torch.nn.functional.interpolate(
                pixels[None], (384, 512), mode=mode, antialias=True)[0].movedim(0, -1).numpy())
            for mode in ('bilinear', 'bicubic'))
        assert bilinear.mean() < 3 and np.quantile(bilinear, 0.99) < 12  # quality 95
        assert bilinear.mean() < bicubic.mean() / 2
        assert np.abs(image[..., 0] - 6.0 * resized)[5:-5, 5:-5].mean() < 15

    def test_refuses(self, convert, root, tmp_path):
        labels = root / 'sunrgbd_train_test_labels/img-005052.png'
        write_image(labels, np.full((530, 730), 38, np.uint8))
        with pytest.raises(SystemExit, match='img-005052.png holds label 38'):
            convert('sunrgbd', root, '--out', tmp_path / 'out')
        write_image(labels, np.zeros((384, 512), np.uint8))
        with pytest.raises(SystemExit, match='img-000002.jpg is 730x530 but .*512x384'):
            convert('sunrgbd', root, '--out', tmp_path / 'out')
        labels.unlink()
        with pytest.raises(SystemExit, match='img-005052.png is missing'):
            convert('sunrgbd', root, '--out', tmp_path / 'other')
        assert not (tmp_path / 'other').exists()


class TestCamVid:
    @pytest.fixture(params=['.png', '.jpg'])
    def root(self, tmp_path, request):
        root = tmp_path / 'CamVid'
        for part, names in (('train', ('0001TP_2', '0001TP_1')), ('val', ('0016E5_3',))):
            for name in names:
                write_image(root / part / f'{name}{request.param}', np.zeros((6, 8, 3), np.uint8))
                write_image(root / f'{part}annot/{name}.png', np.full((6, 8), 11, np.uint8))
        (root / 'train.txt').write_text('0001TP_2\n0001TP_1\n')
        (root / 'val.txt').write_text(
            '/SegNet/CamVid/val/0016E5_3.png /SegNet/CamVid/valannot/0016E5_3.png\n'
        )
        return root

    def test_result(self, convert, root, tmp_path):
        out = tmp_path / 'out'
        convert('camvid', root, '--out', out)
        assert files_of(out) == {**files_of(root), 'val.txt': b'0016E5_3\n'}

    def test_refuses(self, convert, root, tmp_path):
        out = tmp_path / 'out'
        with pytest.raises(SystemExit, match='another folder'):
            convert('camvid', root, '--out', root)
        mask = root / 'trainannot/0001TP_1.png'
        write_image(mask, np.full((6, 8), 12, np.uint8))
        with pytest.raises(SystemExit, match='0001TP_1.png holds label 12'):
            convert('camvid', root, '--out', out)
        write_image(mask, np.zeros((6, 9), np.uint8))
        with pytest.raises(SystemExit, match='is 8x6 but its mask .*0001TP_1.png is 9x6'):
            convert('camvid', root, '--out', out)
        next((root / 'train').glob('0001TP_1.*')).unlink()
        with pytest.raises(SystemExit, match=r'image .*0001TP_1.png \(or .jpg, .jpeg\) is missing'):
            convert('camvid', root, '--out', out)
        (root / 'train.txt').unlink()
        with pytest.raises(SystemExit, match='train.txt is missing'):
            convert('camvid', root, '--out', out)
