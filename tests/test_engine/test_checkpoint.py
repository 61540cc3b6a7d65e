# Licensed under the Apache License, Version 2.0.
import os
import pickle
import re
import stat
from collections import Counter, OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, save_checkpoint

from mmseg_reco.engine import checkpoint
from mmseg_reco.engine.checkpoint import (
    AtomicLocalBackend,
    latest_checkpoint,
    load_local,
    pack_history,
    remove_partial_files,
    safe_checkpoint_loading,
    to_plain,
    unpack_history,
)


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = str(victim)

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.victim),)


def test_plain_values_survive_a_weights_only_load(tmp_path):
    value = OrderedDict(
        score=np.float64(0.25),
        count=np.int32(7),
        flag=np.bool_(True),
        array=np.arange(6.0).reshape(2, 3),
        image=np.array([[0, 255]], np.uint8),
        words=np.array(['a', 'b']),
        path=Path('a') / 'b',
        milestones=Counter({3: 1}),
        kept=deque([4, 8], maxlen=2),
        nested=[(1, None, {'x': torch.ones(2)})],
        names={'a'},
    )
    torch.save(to_plain(value), tmp_path / 'plain.pth')
    loaded = torch.load(tmp_path / 'plain.pth', weights_only=True)

    assert torch.equal(loaded.pop('array'), torch.arange(6.0, dtype=torch.float64).view(2, 3))
    assert torch.equal(loaded.pop('image'), torch.tensor([[0, 255]], dtype=torch.uint8))
    assert torch.equal(loaded['nested'][0][2].pop('x'), torch.ones(2))
    assert loaded == dict(
        score=0.25,
        count=7,
        flag=True,
        words=['a', 'b'],
        path=os.path.join('a', 'b'),
        milestones={3: 1},
        kept=[4, 8],
        nested=[(1, None, {})],
        names=['a'],
    )
    assert type(loaded['score']) is float and type(loaded['flag']) is bool


def test_a_foreign_type_is_kept_and_named(monkeypatch):
    warnings = []
    monkeypatch.setattr(checkpoint, 'print_log', lambda message, **kwargs: warnings.append(message))
    foreign = slice(1, 2)
    assert to_plain({'a': [0, foreign]}, 'meta') == {'a': [0, foreign]}
    assert len(warnings) == 1 and 'meta.a[1] holds a slice' in warnings[0]


def test_history_round_trip():
    buffer = HistoryBuffer([1.5, 2.5, 4.0], [1, 2, 1], max_length=3)
    restored = unpack_history(pack_history(buffer))
    restored.update(8.0, 4)  # drops the first entry
    log, count = restored.data
    assert log.tolist() == [2.5, 4.0, 8.0] and count.tolist() == [2, 1, 4]
    assert restored.mean(2) == pytest.approx((4.0 + 8.0) / 5)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_malicious_file_is_refused_unless_trusted(tmp_path, zipped):
    file, victim = tmp_path / 'evil.pth', tmp_path / 'victim'
    torch.save(dict(state_dict={}, meta=Attack(victim)), file,
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match='--trust-checkpoint') as caught:
        load_local(str(file))
    assert str(file) in str(caught.value)
    # what Path.touch needs: all of it since torch 2.5, and the first of an old file
    lists_all = zipped and hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')
    assert re.search('pathlib' if lists_all else 'pathlib|getattr', str(caught.value))
    assert len(str(caught.value)) < 200 + 2 * len(str(file))
    with pytest.raises(pickle.UnpicklingError):
        load_local(str(file), trusted=[str(tmp_path / 'another.pth')])
    assert not victim.exists()

    load_local(str(file), trusted=[os.path.relpath(file)])
    assert victim.exists()


def test_a_stock_message_hub_is_named(tmp_path):
    file = tmp_path / 'stock.pth'
    torch.save(dict(message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1])))), file)
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        load_local(str(file))


def test_a_truncated_file_is_named(tmp_path):
    file = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=dict(w=torch.zeros(1000))), file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match='cut.pth is not a complete checkpoint'):
        load_local(str(file))
    with pytest.raises(FileNotFoundError, match='No such checkpoint: .*gone.pth'):
        load_local(str(tmp_path / 'gone.pth'))


@pytest.mark.parametrize('trusted', [False, True])
@pytest.mark.parametrize('end', [0, 1, 18, 0.5, 0.95])  # bytes, or the share of all
def test_a_truncated_file_of_the_old_format_is_named(tmp_path, end, trusted):
    file = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=dict(w=torch.zeros(1000))), file,
               _use_new_zipfile_serialization=False)
    assert torch.equal(load_local(str(file))['state_dict']['w'], torch.zeros(1000))
    data = file.read_bytes()
    file.write_bytes(data[:int(end if isinstance(end, int) else end * len(data))])
    with pytest.raises(ValueError, match='cut.pth is not a complete checkpoint'):
        load_local(str(file), trusted=[str(file)] * trusted)


def test_an_error_that_has_nothing_to_do_with_the_file_is_handed_on(tmp_path, monkeypatch):
    (tmp_path / 'whole.pth').write_bytes(b'P')

    def load(*args, **kwargs):
        raise RuntimeError('Attempting to deserialize object on a CUDA device')

    monkeypatch.setattr(torch, 'load', load)
    with pytest.raises(RuntimeError, match='on a CUDA device'):
        load_local(str(tmp_path / 'whole.pth'))


def test_safe_loading_ends_with_its_context(tmp_path):
    file = tmp_path / 'evil.pth'
    torch.save(Attack(tmp_path / 'victim'), file)
    stock = CheckpointLoader._get_checkpoint_loader(str(file))
    with safe_checkpoint_loading(), pytest.raises(pickle.UnpicklingError, match='evil.pth'):
        CheckpointLoader.load_checkpoint(str(file))
    assert CheckpointLoader._get_checkpoint_loader(str(file)) is stock


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / 'new' / 'iter_1.pth'
    args = dict(filename=str(file), backend_args=dict(backend='atomic_local'))
    save_checkpoint(dict(a=1), **args)

    def fail(descriptor):
        raise OSError('disk full')

    monkeypatch.setattr('mmseg_reco.engine.checkpoint.os.fsync', fail)
    with pytest.raises(OSError, match='iter_1.pth could not be written: disk full'):
        save_checkpoint(dict(a=2), **args)
    assert torch.load(file, weights_only=True) == dict(a=1)
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.skipif(os.name != 'posix', reason='folders are not flushed there')
def test_a_file_and_then_its_name_are_flushed_to_disk(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor):
        status = os.fstat(descriptor)
        flushed.append((status.st_ino, stat.S_ISDIR(status.st_mode), os.listdir(tmp_path)))

    monkeypatch.setattr('mmseg_reco.engine.checkpoint.os.fsync', fsync)
    AtomicLocalBackend().put(b'abc', tmp_path / 'x')
    assert [is_folder for _, is_folder, _ in flushed] == [False, True]
    assert flushed[0][0] == (tmp_path / 'x').stat().st_ino and 'x' not in flushed[0][2]
    assert flushed[1][0] == tmp_path.stat().st_ino and flushed[1][2] == ['x']


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    for name in ('.iter_4.pth.17.partial', '.hidden', 'iter_4.pth'):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['.hidden', 'iter_4.pth']


def test_atomic_backend_takes_paths(tmp_path):
    AtomicLocalBackend().put(b'abc', tmp_path / 'x')
    assert (tmp_path / 'x').read_bytes() == b'abc'


def test_latest_checkpoint_in_a_moved_directory(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / 'last_checkpoint').write_text('/before/the/move/iter_4.pth')
    with pytest.raises(FileNotFoundError, match='iter_4.pth'):
        latest_checkpoint(tmp_path)
    (tmp_path / 'iter_4.pth').touch()
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'iter_4.pth')


def test_a_copied_directory_goes_on_from_its_own_checkpoint(tmp_path):
    folders = tmp_path / 'original', tmp_path / 'copy'
    for folder in folders:
        folder.mkdir()
        (folder / 'iter_4.pth').touch()
        (folder / 'last_checkpoint').write_text(str(folders[0] / 'iter_4.pth'))
    for folder in folders:
        assert latest_checkpoint(folder) == str(folder / 'iter_4.pth')
    (folders[1] / 'iter_4.pth').unlink()
    assert latest_checkpoint(folders[1]) == str(folders[0] / 'iter_4.pth')
