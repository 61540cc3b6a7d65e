# Licensed under the Apache License, Version 2.0.
import pickle
from copy import deepcopy
from io import BytesIO

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mmseg_reco.datasets import LoadCheckedAnnotations, LoadCheckedImage
from mmseg_reco.datasets.pipelines import checked_pipeline
from mmseg_reco.datasets.transforms.loading import is_cut_short

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def encode(kind):
    """A whole image file of some kind."""
    file, image = BytesIO(), Image.fromarray(PICTURE)
    if kind == 'preview':  # a JPEG inside the header of a JPEG, as cameras write it
        image.resize((16, 12)).save(file, 'JPEG')
        exif = b'Exif\x00\x00' + file.getvalue()
        file = BytesIO()
        image.save(file, 'JPEG', exif=exif)
    elif kind == 'appended':
        image.save(file, 'JPEG')
        file.write(b'\x00' * 10 + b'made by a camera')
    else:
        options = dict(progressive=True) if kind == 'progressive' else {}
        image.save(file, 'PNG' if kind == 'png' else kind if kind in ('BMP', 'TIFF') else 'JPEG',
                   **options)
    return file.getvalue()


@pytest.mark.parametrize('kind', ['baseline', 'progressive', 'preview', 'appended', 'png'])
def test_cut_files_are_found_and_whole_ones_pass(kind):
    data = encode(kind)
    assert not is_cut_short(data)
    assert Image.open(BytesIO(data)).size == (80, 60)
    end = data.rfind(b'IEND' if kind == 'png' else b'\xff\xd9')
    for length in (end // 20, end // 2, end - 100):
        assert is_cut_short(data[:length]), length


@pytest.mark.parametrize('kind', ['BMP', 'TIFF'])
def test_other_formats_are_left_to_their_decoders(kind):
    assert not is_cut_short(encode(kind)[:100])


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'a name with blanks ü.jpg'


@pytest.mark.parametrize('kind', ['baseline', 'appended', 'png', 'BMP', 'TIFF'])
@pytest.mark.parametrize('options', [{}, dict(to_float32=True), dict(color_type='grayscale')])
def test_whole_images_load_as_the_stock_loader_has_them(kind, options, path):
    path.write_bytes(encode(kind))
    ours, stock = (loader(**options)(dict(img_path=str(path)))
                   for loader in (LoadCheckedImage, LoadImageFromFile))
    assert ours.keys() == stock.keys()
    np.testing.assert_array_equal(ours['img'], stock['img'])
    assert ours['img'].dtype == stock['img'].dtype
    assert ours['img_shape'] == stock['img_shape'] and ours['ori_shape'] == stock['ori_shape']


def float_tiff():
    file, picture = BytesIO(), PICTURE[..., 0].astype(np.float32)
    picture[3, 4] = np.nan
    Image.fromarray(picture).save(file, 'TIFF')
    return file.getvalue()


DAMAGED = {
    'cut short': (lambda: encode('baseline')[:-500], {}),
    'the file is empty': (lambda: b'', {}),
    'no image format': (lambda: b'<html>not found</html>', {}),
    'NaN or infinite': (float_tiff, dict(color_type='unchanged')),
    'cannot be decoded': (lambda: b'<html>not found</html>', dict(imdecode_backend='pillow')),
}


@pytest.mark.parametrize('fault', DAMAGED)
def test_damaged_images_are_named_or_skipped(fault, path):
    make, options = DAMAGED[fault]
    path.write_bytes(make())
    with pytest.raises(ValueError, match=f'blanks ü.jpg.*{fault}.*damaged=.skip'):
        LoadCheckedImage(**options)(dict(img_path=str(path)))
    skipping = LoadCheckedImage(damaged='skip', **options)
    assert skipping(dict(img_path=str(path))) is None
    assert skipping(dict(img_path=str(path))) is None and skipping.skipped == 2
    assert LoadCheckedImage(ignore_empty=True, **options)(dict(img_path=str(path))) is None
    path.unlink()
    with pytest.raises(FileNotFoundError):
        skipping(dict(img_path=str(path)))


def test_the_stock_loader_paints_the_missing_part(path):
    """The reason for all this: no error, and an image that is wrong."""
    data = encode('baseline')
    path.write_bytes(data)
    whole = LoadImageFromFile()(dict(img_path=str(path)))['img']
    path.write_bytes(data[:-1500])
    try:
        cut = LoadImageFromFile()(dict(img_path=str(path)))['img']
    except AssertionError:
        pytest.skip(f'OpenCV {cv2.__version__} refuses a truncated JPEG; 4.x does not')
    assert cut.shape == whole.shape and (cut[-2:] == 0).mean() > 0.5 > (whole[-2:] == 0).mean()


def test_damaged_takes_two_words():
    with pytest.raises(ValueError, match="'error' or 'skip', got 'ignore'"):
        LoadCheckedImage(damaged='ignore')


def test_skips_are_counted_over_all_workers(tmp_path):
    for index in range(8):
        data = encode('baseline')
        (tmp_path / f'{index}.jpg').write_bytes(data[:-500] if index % 4 == 3 else data)
    dataset = DATASETS.build(dict(
        type='BaseSegDataset', data_root=str(tmp_path), data_prefix=dict(img_path=''),
        pipeline=[dict(type='LoadCheckedImage', damaged='skip')]))
    loader = DataLoader(dataset, 1, num_workers=2, collate_fn=lambda batch: batch)
    images = [sample['img_path'] for batch in loader for sample in batch]
    assert len(images) == 8 and not any('3.jpg' in image or '7.jpg' in image for image in images)
    assert dataset.pipeline.transforms[0].skipped >= 2  # a replacement may be damaged, too


def test_loaders_can_be_copied():
    loader = deepcopy(LoadCheckedImage(damaged='skip'))
    loader.skipped += 1
    assert pickle.loads(pickle.dumps(loader)).skipped == 1


def load_mask(path, mask, **options):
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    else:
        Image.fromarray(mask).save(path, 'PNG')
    results = dict(img=np.zeros((6, 8, 3), np.uint8), seg_map_path=str(path), seg_fields=[],
                   reduce_zero_label=False, label_map=None)
    return LoadCheckedAnnotations(**options)(results)['gt_seg_map']


def test_good_masks_load_as_the_stock_loader_has_them(path):
    mask = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    mask[0, 0] = 255
    loaded = load_mask(path, mask, num_classes=3)
    results = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=False, label_map=None)
    np.testing.assert_array_equal(loaded, LoadAnnotations()(results)['gt_seg_map'])
    load_mask(path, np.full((6, 8), 254, np.uint8))  # any label, where the classes are not known


@pytest.mark.parametrize(('mask', 'message'), [
    (np.zeros((6, 8, 3), np.uint8), 'has 3 channels.*indices'),
    (np.zeros((8, 6), np.uint8), 'is 6x8, but its image 8x6'),
    (np.full((6, 8), 3, np.uint8), 'label 3, but there are 3 classes'),
    (np.full((6, 8), 7, np.uint8), 'label 7, .*reduce_zero_label'),
    (b'', 'cannot be read'),
    (b'\x89PNG\r\n', 'cannot be read'),
])
def test_bad_masks_are_named(path, mask, message):
    with pytest.raises(ValueError, match=f'The mask .*blanks ü.jpg.*{message}'):
        load_mask(path, mask, num_classes=3)


def test_a_mask_cut_short_is_named(path):
    Image.fromarray(PICTURE[..., 0]).save(path, 'PNG')
    with pytest.raises(ValueError, match='blanks ü.jpg.* cannot be read'):
        load_mask(path, path.read_bytes()[:2000])


def test_void_of_another_number(path):
    mask = np.full((6, 8), 11, np.uint8)
    load_mask(path, mask, num_classes=11, ignore_index=11)
    with pytest.raises(ValueError, match='label 11'):
        load_mask(path, mask, num_classes=11)


LOADERS = [dict(type='LoadImageFromFile', to_float32=True), dict(type='LoadAnnotations')]


@pytest.mark.parametrize(('changes', 'classes'), [
    (dict(type='CityscapesDataset'), 19), (dict(metainfo=dict(classes=('a', 'b'))), 2),
    (dict(metainfo=dict(classes='classes.txt')), None), (dict(), None)])
def test_stock_loaders_are_replaced(changes, classes):
    config = dict(dict(type='BaseSegDataset', pipeline=LOADERS), **changes)
    assert checked_pipeline(config) == [
        dict(type='LoadCheckedImage', to_float32=True),
        dict(type='LoadCheckedAnnotations', num_classes=classes, ignore_index=255)]


def test_other_loaders_stay():
    pipeline = [dict(type='LoadImageFromFile', file_client_args=dict(backend='disk')),
                dict(type='mmdet.LoadAnnotations'), dict(type='LoadSingleRSImageFromFile'), print]
    assert checked_pipeline(dict(type='BaseSegDataset', pipeline=pipeline)) == pipeline
    by_class = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations)]
    checked = checked_pipeline(dict(type='CamVidDataset', ignore_index=9, pipeline=by_class))
    assert checked[1] == dict(type='LoadCheckedAnnotations', num_classes=11, ignore_index=9)
    assert checked_pipeline(dict(type='CamVidDataset', pipeline=checked)) == checked
