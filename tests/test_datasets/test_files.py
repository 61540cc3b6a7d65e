# Licensed under the Apache License, Version 2.0.
"""Data outside the file system: what comes out must equal what the same files on disk give."""

import runpy
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.fileio import register_backend
from mmengine.fileio.backends import BaseStorageBackend
from mmseg.datasets import PascalVOCDataset
from mmseg.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mmseg_reco.datasets import MultiSourceSampler, files
from mmseg_reco.datasets.checks import check_dataset, leaf_datasets, quick_check

CLASSES = 'field', 'road', 'house'
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
MEMORY: dict[str, bytes] = {}


@register_backend('memory', force=True, prefixes='memory')
class MemoryBackend(BaseStorageBackend):
    """The least that a backend must do, for a dict."""

    def get(self, filepath):
        return MEMORY[str(filepath)]

    def get_text(self, filepath, encoding='utf-8'):
        return self.get(filepath).decode(encoding)


@register_backend('bucket', force=True, prefixes='bucket')
class BucketBackend(MemoryBackend):
    """One with folders, as S3 has them, which needs an argument."""

    def __init__(self, key):
        assert key == 'secret'

    def exists(self, filepath):
        return filepath in MEMORY

    def list_dir_or_file(self, dir_path, list_dir, list_file=True, suffix=None, recursive=False):
        assert list_dir is False
        head = f'{dir_path}/'
        names = [path.removeprefix(head) for path in MEMORY if path.startswith(head)]
        return (name for name in names if suffix is None or name.endswith(suffix))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def root(tmp_path):
    """Six images in two folders, masks of the first four, lists."""
    rng = np.random.default_rng(0)
    for folder in ('images', 'masks', 'more'):
        (tmp_path / folder).mkdir()
    for name in 'abcdef':
        folder = 'images' if name in 'abcd' else 'more'
        image = rng.integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / folder / f'{name}.png')
    for name in 'abcd':
        mask = rng.integers(0, 3, (12, 16), np.uint8)
        Image.fromarray(mask).save(tmp_path / 'masks' / f'{name}.png')
    for file, names in dict(labeled='ab', unlabeled='cd', more='ef', val='d').items():
        (tmp_path / f'{file}.txt').write_text('\n'.join(names) + '\n')
    return tmp_path


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob('*')) if path.is_file()}


@pytest.fixture(params=['memory', 'bucket', 'http', 'lmdb', 'local'])
def storage(request, root):
    """Settings of a dataset that reads ``root`` through a backend; the lists lie there, too."""
    if request.param in ('memory', 'bucket'):
        MEMORY.clear()
        MEMORY.update({f'{request.param}://place/{key}': data
                       for key, data in contents(root).items()})
        args = dict(backend='bucket', key='secret') if request.param == 'bucket' else None
        yield dict(data_root=f'{request.param}://place', backend_args=args)
    elif request.param == 'http':
        handler = partial(QuietHandler, directory=str(root))
        with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield dict(data_root=f'http://127.0.0.1:{server.server_port}', backend_args=None)
            server.shutdown()
            thread.join()
    elif request.param == 'lmdb':
        lmdb = pytest.importorskip('lmdb', reason='lmdb is not installed')
        # mmengine opens a database of one file or folder, as lmdb does by default
        with lmdb.open(str(root / 'db'), map_size=2**24) as database:
            with database.begin(write=True) as transaction:
                for key, data in contents(root).items():
                    transaction.put(f'set/{key}'.encode(), data)
        yield dict(data_root='set', backend_args=dict(backend='lmdb', db_path=str(root / 'db')))
    else:
        yield dict(data_root=str(root), backend_args=None)


def config(settings, **changes):
    return {**dict(type='BaseSegDataset', metainfo=dict(classes=CLASSES), img_suffix='.png',
                   data_prefix=dict(img_path='images', seg_map_path='masks'),
                   serialize_data=False, pipeline=PIPELINE), **settings, **changes}


def semi(settings, unlabeled='unlabeled.txt', **changes):
    return DATASETS.build(dict(
        type='LabeledUnlabeledDataset', dataset=config(settings, **changes),
        labeled='labeled.txt', unlabeled=unlabeled))


def assert_same(data, expected):
    assert len(data) == len(expected) > 0
    for index in range(len(data)):
        ours, theirs = data[index], expected[index]
        for branch in ('sup', 'unsup'):
            if theirs['inputs'][branch] is None:
                assert ours['inputs'][branch] is None
                continue
            assert torch.equal(ours['inputs'][branch], theirs['inputs'][branch])
            ours_sample, sample = ours['data_samples'][branch], theirs['data_samples'][branch]
            assert ('hidden_sem_seg' in ours_sample) == ('hidden_sem_seg' in sample)
            for key in sample.keys():
                assert torch.equal(ours_sample.get(key).data, sample.get(key).data)


@pytest.mark.parametrize('unlabeled', [
    'unlabeled.txt',
    dict(data_prefix=dict(img_path='more'), ann_file='more.txt'),
    # masks are named, but there are none
    ['unlabeled.txt', dict(data_prefix=dict(img_path='more', seg_map_path='masks'),
                           ann_file='more.txt')],
])
def test_same_samples_as_on_disk(storage, root, unlabeled):
    data = semi(storage, unlabeled)
    assert_same(data, semi(dict(data_root=str(root)), unlabeled))
    assert quick_check(data) == ([], [])


def test_partial_labels_and_validation(storage, root):
    """PartialLabelDataset reads lists anywhere; without a level it is the dataset itself."""
    for level in ('p0', None):
        data, expected = (DATASETS.build(dict(
            type='PartialLabelDataset', level=level, dataset=config(settings, ann_file='val.txt')))
            for settings in (storage, dict(data_root=str(root))))
        assert len(data) == 1 and data.metainfo['classes'] == CLASSES
        assert torch.equal(data[0]['inputs'], expected[0]['inputs'])
        assert torch.equal(data[0]['data_samples'].gt_sem_seg.data,
                           expected[0]['data_samples'].gt_sem_seg.data)


def test_workers_read_it_after_the_check(storage):
    """Backends are opened before the workers are forked, and used in them."""
    data = semi(storage)
    assert quick_check(data) == ([], [])
    expected = pseudo_collate([data[0], data[1], data[2], data[3]])
    loader = DataLoader(data, 4, num_workers=2, collate_fn=pseudo_collate,
                        sampler=MultiSourceSampler(data, 4, [1, 1], shuffle=False))
    batches = iter(loader)
    for _ in range(2):
        batch = next(batches)
        assert torch.equal(batch['inputs']['sup'][0], expected['inputs']['sup'][0])
        assert torch.equal(batch['inputs']['unsup'][3], expected['inputs']['unsup'][3])


def test_list_on_disk_and_images_elsewhere(storage, root):
    data = DATASETS.build(dict(
        type='LabeledUnlabeledDataset', dataset=config(storage),
        labeled=str(root / 'labeled.txt'), unlabeled=str(root / 'unlabeled.txt')))
    assert_same(data, semi(dict(data_root=str(root))))


def test_folders(storage, root):
    """Listed where that is possible; else the message says what to do."""
    changes = dict(data_prefix=dict(img_path='more'))
    if storage['backend_args'] == dict(backend='bucket', key='secret') or (
            storage['data_root'] == str(root)):
        assert_same(semi(storage, changes), semi(dict(data_root=str(root)), changes))
    else:
        with pytest.raises(ValueError, match='more.* cannot be listed.* give a list of names'):
            semi(storage, changes)


def remove(storage, root, name):
    """Take a file away from wherever it lies."""
    (root / name).unlink()
    MEMORY.pop(f'{storage["data_root"]}/{name}', None)
    if (storage['backend_args'] or {}).get('backend') == 'lmdb':
        import lmdb
        from mmengine.fileio.io import backend_instances
        backend_instances.clear()  # LMDB opens a database once in a process
        with lmdb.open(str(root / 'db')) as database, database.begin(write=True) as transaction:
            transaction.delete(f'set/{name}'.encode())


def test_missing_files_are_named(storage, root):
    data = semi(storage)
    for name in ('images/c.png', 'masks/b.png', 'labeled.txt'):
        remove(storage, root, name)
    where = storage['data_root']
    assert quick_check(data)[0] == [(f'{where}/masks/b.png', 'mask is missing'),
                                    (f'{where}/images/c.png', 'image is missing')]
    labeled, unlabeled = leaf_datasets(data, 'train').values()
    assert check_dataset(labeled, 'labeled').problems == [
        (f'{where}/masks/b.png', 'mask is missing')]
    assert [p.text for p in check_dataset(unlabeled, 'unlabeled').problems] == ['image is missing']
    for index, name in ((1, 'masks/b.png'), (2, 'images/c.png')):
        with pytest.raises(FileNotFoundError, match=f'{where}/{name}'):
            data[index]
    with pytest.raises(FileNotFoundError, match=f'{where}/labeled.txt. does not exist'):
        semi(storage)


def test_check_data_tool(storage, root, tmp_path, monkeypatch, capsys):
    data = dict(type='LabeledUnlabeledDataset', dataset=config(storage), labeled='labeled.txt',
                unlabeled='unlabeled.txt')
    val = dict(type='PartialLabelDataset', level=None, dataset=config(storage, ann_file='val.txt'))
    own = Path(__file__).stem
    (tmp_path / 'config.py').write_text(
        f"custom_imports = dict(imports=['{own}'])\ntrain_dataloader = dict(dataset={data!r})\n"
        f'val_dataloader = dict(dataset={val!r})\n')
    monkeypatch.setattr(sys, 'argv', ['check_data.py', str(tmp_path / 'config.py')])
    for code, said in ((0, 'The data are in order.'), (1, 'masks/a.png: mask cannot be read')):
        with pytest.raises(SystemExit) as stop:
            runpy.run_path('tools/check_data.py', run_name='__main__')
        assert stop.value.code == code and said in capsys.readouterr().out
        (root / 'masks/a.png').write_bytes(b'')
        MEMORY[f'{storage["data_root"]}/masks/a.png'] = b''
        if (storage['backend_args'] or {}).get('backend') == 'lmdb':
            return


def test_class_that_reads_its_own_lists(root):
    """Neither read by name a line, nor refused for what would be a name twice."""
    @DATASETS.register_module(force=True)
    class TableDataset(DATASETS.get('BaseSegDataset')):
        def load_data_list(self):
            rows = files.read_text(self.ann_file, self.backend_args).split('\n')[1:]
            return [dict(img_path=files.join(self.data_prefix['img_path'], row.split(';')[0]),
                         label_map=None, reduce_zero_label=False, seg_fields=[],
                         seg_map_path=files.join(self.data_prefix['seg_map_path'],
                                                 row.split(';')[0])) for row in rows if ';' in row]

    table = 'file;week\na.png;1\n\n\nb.png;1\n'
    MEMORY.update({f'memory://place/{key}': data for key, data in contents(root).items()})
    MEMORY['memory://place/table.csv'] = table.encode()
    (root / 'table.csv').write_text(table)
    data, expected = (DATASETS.build(dict(
        type='LabeledUnlabeledDataset', dataset=config(
            dict(data_root=where), type='TableDataset', ann_file='table.csv'), labeled='table.csv',
        unlabeled='table.csv')) for where in ('memory://place', str(root)))
    assert_same(data, expected)


def test_classes_that_know_local_files_only():
    MEMORY.update({'memory://place/train.txt': b'a\n', 'memory://place/images/a.jpg': b''})
    settings = dict(type='PascalVOCDataset', data_root='memory://place', ann_file='train.txt',
                    metainfo=dict(classes=PascalVOCDataset.METAINFO['classes']))
    with pytest.raises(Exception, match='PascalVOCDataset itself .* take BaseSegDataset'):
        semi(settings, unlabeled='train.txt')


@pytest.mark.parametrize(('path', 'args', 'text'), [
    ('a.png', dict(backend='petral'), "backend 'petral', which is not registered.* petrel"),
    ('gs://bucket/a.png', None, "No storage backend reads 'gs://bucket/a.png': name one"),
])
def test_unknown_backends(path, args, text):
    with pytest.raises(ValueError, match=text):
        files.read(path, args)


def test_server_that_is_gone_is_named():
    with ThreadingHTTPServer(('127.0.0.1', 0), QuietHandler) as server:
        address = f'http://127.0.0.1:{server.server_port}/a.png'
    with pytest.raises(OSError, match=f"'{address}' cannot be read: .*refused"):
        files.read(address)


def test_join():
    assert files.join('data', 'a', 'b.png') == 'data/a/b.png'
    assert files.join('http://host/data/', 'a', 'b.png') == 'http://host/data/a/b.png'
    assert files.join('data', 's3://bucket/a') == 's3://bucket/a'
    assert files.join('s3://bucket', '/data/a') == '/data/a' == files.join(None, '/data/a')


def test_the_dataset_hands_its_backend_on(root):
    """One place says where files lie; a loader that says otherwise is left alone."""
    args = dict(backend='bucket', key='secret')
    MEMORY.update({f'bucket://place/{key}': data for key, data in contents(root).items()})
    pipeline = [dict(type='LoadImageFromFile', backend_args=dict(backend='bucket', key='secret')),
                dict(type='LoadAnnotations', backend_args=None), dict(type='PackSegInputs')]
    for steps in (PIPELINE, pipeline):
        data = semi(dict(data_root='bucket://place', backend_args=args, pipeline=steps))
        loaders = data.datasets[0].pipeline.transforms[:2]
        assert [loader.backend_args for loader in loaders] == [args, args]


def test_converters(storage, root, tmp_path, monkeypatch, capsys):
    """Same files as from disk; partial_labels needs a folder that can be listed."""
    tools = Path('tools/dataset_converters').resolve()
    monkeypatch.syspath_prepend(str(tools))

    def convert(tool, *arguments, args=None):
        words = [f'{key}={value}' for key, value in (args or {}).items()]
        options = ['--backend-args', *words] if words else []
        monkeypatch.setattr(sys, 'argv', [tool, *arguments, *options])
        runpy.run_path(str(tools / f'{tool}.py'), run_name='__main__')

    where, args = storage['data_root'], storage['backend_args']
    splits = '--num-labeled', '1', '--seeds', '0', '--out'
    convert('make_splits', f'{where}/masks', '--list', f'{where}/unlabeled.txt', *splits,
            str(tmp_path / 'splits'), args=args)
    convert('make_splits', str(root / 'masks'), '--list', str(root / 'unlabeled.txt'), *splits,
            str(tmp_path / 'expected'))
    assert contents(tmp_path / 'splits') == contents(tmp_path / 'expected') != {}

    out = tmp_path / 'partial'
    levels = '--levels', 'p0', '--seeds', '3'
    if args == dict(backend='bucket', key='secret') or where == str(root):
        convert('partial_labels', f'{where}/masks', str(out), *levels, args=args)
        convert('partial_labels', str(root / 'masks'), str(tmp_path / 'from_disk'), *levels)
        assert contents(out) == contents(tmp_path / 'from_disk')
        assert sorted(contents(out)) == [f'p0_3/{name}.png' for name in 'abcd']
    else:
        with pytest.raises(SystemExit) as stop:
            convert('partial_labels', f'{where}/masks', str(out), *levels, args=args)
        assert stop.value.code == 2 and 'cannot be listed' in capsys.readouterr().err


def test_converters_stay_in_their_output_folder(tmp_path, monkeypatch):
    """A bucket may hold any name."""
    MEMORY.clear()
    MEMORY['bucket://place/masks/../../evil.png'] = b''
    tools = Path('tools/dataset_converters').resolve()
    monkeypatch.syspath_prepend(str(tools))
    monkeypatch.setattr(sys, 'argv', ['partial_labels', 'bucket://place/masks', str(tmp_path / 'o'),
                                      '--backend-args', 'backend=bucket', 'key=secret'])
    with pytest.raises(SystemExit, match='leads out of its folder'):
        runpy.run_path(str(tools / 'partial_labels.py'), run_name='__main__')
