# Licensed under the Apache License, Version 2.0.
"""What a stranger hands over, a checkpoint, a list, an address, runs no code of his."""
import ast
import functools
import pickle
import runpy
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.registry import MODELS
from PIL import Image

from mmseg_reco.engine import checkpoint, launch
from mmseg_reco.engine.checkpoint import safe_checkpoint_loading

ROOT = Path(__file__).resolve().parents[2]


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.victim),)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """The file that the attacks create."""
    return tmp_path / 'victim'


@pytest.fixture
def evil(tmp_path: Path, victim: Path) -> Path:
    (tmp_path / 'files').mkdir()
    file = tmp_path / 'files' / 'evil.pth'
    torch.save(dict(state_dict={}, meta=Attack(victim)), file)
    return file


@pytest.fixture
def address(evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """HTTP server of the folder of ``evil``; downloads go to a cache of the test's own."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(evil.parent))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch_home'))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
        thread.join()


def test_the_attack_works_where_nobody_refuses(evil, victim):
    torch.load(evil, weights_only=False)
    assert victim.exists()


def test_nothing_from_the_network_is_unpickled(address, victim, tmp_path, monkeypatch):
    torch.save(dict(state_dict=dict(w=torch.ones(2))), tmp_path / 'files' / 'good.pth')
    monkeypatch.setattr(mmengine_checkpoint, 'get_external_models',
                        lambda: dict(evil=f'{address}/evil.pth', good=f'{address}/good.pth'))
    with safe_checkpoint_loading():
        for name in (f'{address}/evil.pth', 'open-mmlab://evil', 'openmmlab://evil'):
            with pytest.raises(pickle.UnpicklingError, match='--trust-checkpoint'):
                CheckpointLoader.load_checkpoint(name)
        for name in (f'{address}/good.pth', 'open-mmlab://good'):
            assert CheckpointLoader.load_checkpoint(name)['state_dict']['w'].sum() == 2
    assert not victim.exists()
    cache = tmp_path / 'torch_home' / 'hub' / 'checkpoints'
    assert sorted(path.name for path in cache.iterdir()) == ['evil.pth', 'good.pth']

    with safe_checkpoint_loading([f'{address}/evil.pth']):
        CheckpointLoader.load_checkpoint(f'{address}/evil.pth')
    assert victim.exists()


@pytest.mark.parametrize('scheme', ['s3', 'petrel', 'cluster:s3', 'pavi'])
def test_nothing_from_other_storage_is_unpickled(scheme, evil, victim, monkeypatch):
    @contextmanager
    def fetch(name):
        yield str(evil)

    monkeypatch.setattr(checkpoint, 'get_local_path', fetch)
    with safe_checkpoint_loading(), pytest.raises(pickle.UnpicklingError):
        CheckpointLoader.load_checkpoint(f'{scheme}://bucket/evil.pth')
    assert not victim.exists()


def test_safe_loading_leaves_mmengine_as_it_was():
    before = dict(CheckpointLoader._schemes), mmengine_checkpoint.load_url
    with safe_checkpoint_loading():
        assert mmengine_checkpoint.load_url is not before[1]
        assert sum(CheckpointLoader._schemes[key] is not before[0][key] for key in before[0]) == 4
    assert (dict(CheckpointLoader._schemes), mmengine_checkpoint.load_url) == before


@pytest.mark.parametrize('remote', [False, True])
def test_pretrained_backbones_are_not_unpickled(remote, evil, address, victim):
    model = MODELS.build(dict(type='MobileNetV2', widen_factor=0.1, init_cfg=dict(
        type='Pretrained', checkpoint=f'{address}/evil.pth' if remote else str(evil))))
    with safe_checkpoint_loading(), pytest.raises(pickle.UnpicklingError, match='evil.pth'):
        model.init_weights()
    assert not victim.exists()


def runner_of(config: Path, **settings):
    cfg = launch.load_config(str(config), settings or None, str(config.parent / 'out'))
    cfg.experiment_name = f'{config.parent.name}_{len(settings)}'  # mmengine keeps one per name
    return launch.build_runner(cfg)


def test_load_from_is_not_unpickled(tiny_config, evil, victim):
    with safe_checkpoint_loading(), pytest.raises(pickle.UnpicklingError, match='evil.pth'):
        runner_of(tiny_config, load_from=str(evil)).train()
    assert not victim.exists()


def test_the_config_in_a_checkpoint_is_not_executed_on_resume(tiny_config, victim):
    """A plain string passes weights_only; mmengine's resume would run it as a config file."""
    code = f'open({str(victim)!r}, "w").close()\n'
    Config.fromstring(code, '.py')
    assert victim.exists(), 'the attack is none'
    victim.unlink()

    with safe_checkpoint_loading():
        runner_of(tiny_config).train()
        file = tiny_config.parent / 'out' / 'iter_4.pth'
        saved = torch.load(file, weights_only=True)
        saved['meta']['config'] = code
        torch.save(saved, file)
        runner = runner_of(tiny_config, load_from=str(file), resume=True,
                           **{'train_cfg.max_iters': 5})
        runner.train()
    assert runner.iter == 5 and not victim.exists()


UNSAFE_CALLS = {'eval', 'exec', 'pickle.load', 'pickle.loads', 'os.system', 'yaml.load',
                'yaml.unsafe_load', 'Config.fromstring'}


def unsafe_calls(tree: ast.AST) -> list[str]:
    """Calls that run what they read."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (name in UNSAFE_CALLS or options.get('shell') == 'True'
                or name == 'torch.load' and 'weights_only' not in options
                or name in ('np.load', 'numpy.load')
                and options.get('allow_pickle', 'False') != 'False'):
            found.append(ast.unparse(node))
    return found


def test_the_scan_sees_what_it_looks_for():
    code = 'eval(x); torch.load(f); run(c, shell=True); np.load(f, allow_pickle=True); model.eval()'
    assert len(unsafe_calls(ast.parse(code))) == 4


@pytest.mark.parametrize('folder', ['mmseg_reco', 'tools'])
def test_no_file_content_is_evaluated(folder):
    paths = sorted((ROOT / folder).rglob('*.py'))
    found = {str(path): calls for path in paths
             if (calls := unsafe_calls(ast.parse(path.read_text())))}
    assert found == {} and len(paths) > 5


@pytest.fixture
def convert(monkeypatch):
    """Runs a converter as its command line does."""
    folder = ROOT / 'tools' / 'dataset_converters'
    monkeypatch.syspath_prepend(str(folder))

    def run(tool: str, *arguments) -> None:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(str(folder / f'{tool}.py'), run_name='__main__')

    return run


def world(root: Path) -> dict[str, bytes]:
    """All files, by path."""
    return {str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob('*')) if path.is_file()}


def data_with(names: list[str], tmp_path: Path) -> tuple[Path, Path]:
    """A folder in the layouts of CamVid and VOC with a list of these names, and an output folder.

    Image and mask of every name do exist, where it leads, so that only the name itself is wrong.
    """
    root, out = tmp_path / 'a' / 'b' / 'data', tmp_path / 'a' / 'b' / 'out'
    for folder in ('train', 'trainannot', 'SegmentationClass'):
        (root / folder).mkdir(parents=True)
        for name in ['good', *names]:
            mode = 'RGB' if folder == 'train' else 'L'
            target = root / folder / f'{name}.png'
            if target.resolve().is_relative_to(tmp_path.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (4, 4)).save(target, 'PNG')
    lists = root / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'val.txt').write_text('good')
    for path in (root / 'train.txt', lists / 'train.txt'):
        path.write_text('\n'.join(['good', *names]))
    return root, out


OUTSIDE = ['../../../evil', '/tmp/evil', 'sub/../../../evil', '..', '..\\..\\evil', 'C:\\evil',
           '\\\\host\\share\\evil']


@pytest.mark.parametrize('name', OUTSIDE)
@pytest.mark.parametrize('tool', ['camvid', 'voc_aug', 'make_splits'])
def test_converters_refuse_names_that_lead_elsewhere(tool, name, convert, tmp_path):
    root, out = data_with([name], tmp_path)
    before = world(tmp_path)
    arguments = dict(camvid=(root, '--out', out), voc_aug=(root, root, '--out', out), make_splits=(
        root / 'trainannot', '--list', root / 'train.txt', '--num-labeled', 1, '--out', out))
    with pytest.raises(SystemExit) as stop:
        convert(tool, *arguments[tool])
    text = str(stop.value)
    assert stop.value.code == 2 and 'train.txt lists' in text and 'leads out of its folder' in text
    assert world(tmp_path) == before


@pytest.mark.parametrize('tool', ['camvid', 'voc_aug', 'make_splits', 'partial_labels'])
def test_converters_write_into_their_output_folder_alone(tool, convert, tmp_path):
    names = ['sub/deep/x', '...', 'a .. b', '~', '$HOME', 'ü ö', ';touch evil']
    root, out = data_with(names, tmp_path)
    before = world(tmp_path)
    arguments = dict(
        camvid=(root, '--out', out), partial_labels=(root / 'trainannot', out),
        make_splits=(root / 'trainannot', '--list', root / 'train.txt', '--num-labeled', 2,
                     '--strategy', 'random', '--out', out))
    if tool == 'voc_aug':
        sbd = tmp_path / 'sbd'
        sbd.mkdir()
        for part in ('train', 'val'):
            (sbd / f'{part}.txt').write_text('good')
        before = world(tmp_path)
        arguments['voc_aug'] = root, sbd, '--out', out
    convert(tool, *arguments[tool])
    after = world(tmp_path)
    written = {path for path in after if after[path] != before.get(path)}
    assert written and all(path.startswith('a/b/out/') for path in written)
    assert before.items() <= after.items()
