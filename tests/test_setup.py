# Licensed under the Apache License, Version 2.0.
"""The version check of the package, its wheel, the installer and the CI script."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from scripts import load_script

import mmseg_reco

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def setup_env():
    return load_script(ROOT / 'tools' / 'setup_env.py')


# The package's own check --------------------------------------------------------------------------


@pytest.mark.parametrize(
    'versions',
    [
        dict(mmengine='0.10.7', mmcv='2.1.0', mmseg='1.2.2'),
        dict(mmengine='0.10.0', mmcv='2.0.0', mmseg='1.2.0'),
        dict(mmengine='0.11.0rc1', mmcv='2.1.0+cu121', mmseg='1.2.9'),
        dict(mmengine='0.10.12', mmcv='2.3.6', mmseg='1.4.2'),
    ],
)
def test_supported_versions_pass(versions):
    mmseg_reco.check_versions(versions)


@pytest.mark.parametrize(
    ('module', 'version', 'remedy'),
    [
        ('mmcv', '2.2.0', "pip install 'mmcv>=2.0.0,<2.2.0'"),
        ('mmcv', '2.4.0', 'mmcv>=2.0.0,<2.2.0 or onedl-mmcv>=2.3,<2.4.'),
        ('mmcv', '1.7.1', "pip install 'mmcv>=2.0.0,<2.2.0'"),
        ('mmcv', '2.0.0rc4', "pip install 'mmcv>=2.0.0,<2.2.0'"),
        ('mmengine', '0.9.1', "pip install 'mmengine>=0.10,<1.0'"),
        ('mmengine', '1.0.0', "pip install 'mmengine>=0.10,<1.0'"),
        ('mmseg', '1.1.2', "pip install 'mmsegmentation>=1.2,<1.3'"),
        ('mmseg', '1.3.0', "pip install 'mmsegmentation>=1.2,<1.3'"),
    ],
)
def test_other_versions_are_refused_with_the_remedy(module, version, remedy):
    with pytest.raises(ImportError) as caught:
        mmseg_reco.check_versions({module: version})
    assert f'{module} {version} is installed' in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ('versions', 'remedy'),
    [
        (dict(mmcv='2.1.0', mmseg='1.4.2'), "pip install 'mmsegmentation>=1.2,<1.3'"),
        (dict(mmcv='2.3.6', mmseg='1.2.2'), "pip install 'onedl-mmsegmentation>=1.4,<1.5'"),
        (dict(mmengine='0.10.7', mmcv='2.3.6'), "pip install 'mmcv>=2.0.0,<2.2.0'"),
    ],
)
def test_the_two_families_do_not_mix(versions, remedy):
    with pytest.raises(ImportError) as caught:
        mmseg_reco.check_versions(versions)
    assert remedy in str(caught.value)


def test_what_mmseg_itself_refuses_is_explained(monkeypatch):
    def import_module(name):
        if name == 'mmseg':
            raise AssertionError('MMCV==2.3.6 is used but incompatible.')
        return __import__(name)

    monkeypatch.setattr(mmseg_reco, 'import_module', import_module)
    with pytest.raises(ImportError, match='MMCV==2.3.6.*all from the onedl forks'):
        mmseg_reco._check_installed()


@pytest.mark.parametrize('version, package', [
    ('1.2.2', 'mmsegmentation'), ('1.4.2', 'onedl-mmsegmentation')])
def test_configs_of_mmseg_are_looked_for_where_they_are(monkeypatch, version, package):
    names = dict(mmseg='mmsegmentation')
    monkeypatch.setattr('mmengine.config.utils.MODULE2PACKAGE', names)
    monkeypatch.setattr('mmseg.__version__', version)
    mmseg_reco._find_configs()
    assert names == dict(mmseg=package)


def test_the_package_and_the_installer_want_the_same(setup_env):
    lines = setup_env.read_requirements('requirements.txt')
    for family, wanted in (('open-mmlab', lines), ('onedl', setup_env.with_forks(lines))):
        required = mmseg_reco._FAMILIES[family].values()
        assert {package + supported for package, supported in required} <= set(wanted)
        assert mmseg_reco._FAMILIES[family]['mmcv'][0] == setup_env.MMCV[family].split('==')[0]


@pytest.mark.parametrize(
    ('missing', 'message'),
    [('mmseg', 'mmseg_reco needs mmsegmentation'), ('mmcv._ext', 'without its compiled operators')],
)
def test_what_is_not_installed_is_named(monkeypatch, missing, message):
    def import_module(name):
        if name == missing or (name, missing) == ('mmcv.ops', 'mmcv._ext'):
            raise ModuleNotFoundError(name=missing)
        return __import__(name)

    monkeypatch.setattr(mmseg_reco, 'import_module', import_module)
    with pytest.raises(ImportError, match=message) as caught:
        mmseg_reco._check_installed()
    assert 'setup_env.py' in str(caught.value)


# The wheel ----------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    skip = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('mmseg_reco', 'configs', 'tools', 'requirements'):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ('setup.py', 'pyproject.toml', 'requirements.txt', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    return source


def test_wheel_holds_the_mim_extension(tmp_path, source):
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
    subprocess.run([*command, '-w', tmp_path, source], check=True, cwd=tmp_path)

    (wheel,) = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    for name in ('tools/train.py', 'tools/dist_train.sh', 'model-index.yml'):
        assert f'mmseg_reco/.mim/{name}' in names
    assert any(name.startswith('mmseg_reco/.mim/configs/') for name in names)
    folders = {name.split('/')[3] for name in names if name.startswith('mmseg_reco/.mim/tools/')}
    assert 'analysis_tools' in folders and not {'benchmarks', 'docs', '__pycache__'} & folders
    assert 'mmseg_reco/engine/hooks/safe_checkpoint_hook.py' in names
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith('METADATA')))
    requires = [line for line in metadata.decode().splitlines() if line.startswith('Requires-Dist')]
    # forks of these have other names, so that pip must not look for them
    assert not any('mmcv' in line and 'extra' not in line for line in requires)
    assert 'Requires-Dist: ftfy' in requires


def test_editable_install_adds_nothing_to_the_sources(tmp_path, source):
    build = 'import setuptools.build_meta as build, sys; build.build_editable(sys.argv[1])'
    subprocess.run([sys.executable, '-c', build, tmp_path], check=True, cwd=source)
    assert list(tmp_path.glob('*.whl')) and not (source / 'mmseg_reco' / '.mim').exists()


# The installer ------------------------------------------------------------------------------------


def test_problems_are_found_one_by_one(setup_env):
    problems = setup_env.find_problems(
        sys.executable, ['numpy', 'numpy<1', 'no-such-package', 'mmcv>=2.0.0,<2.4', 'mmcv>=99']
    )
    assert set(problems) == {'numpy<1', 'no-such-package', 'mmcv>=99'}
    assert problems['numpy<1'].startswith('version ')
    assert 'PackageNotFoundError' in problems['no-such-package']


def test_a_complete_python_is_used_as_it_is(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env, 'find_problems', lambda python, wanted: {})
    assert setup_env.find_environment(['torch'], ROOT / 'no-venv') == sys.executable


def test_an_existing_venv_comes_before_a_new_one(setup_env, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, 'find_problems', lambda python, wanted: {'mmcv': 'missing'})
    monkeypatch.setattr(setup_env.sys, 'prefix', sys.base_prefix)
    monkeypatch.delenv('CONDA_PREFIX', raising=False)
    created = []
    monkeypatch.setattr(setup_env, 'create_venv', created.append)
    python = tmp_path / 'bin' / 'python'
    assert setup_env.find_environment(['mmcv'], tmp_path) == str(python) and created == [tmp_path]

    created.clear()
    python.parent.mkdir()
    python.touch()
    assert setup_env.find_environment(['mmcv'], tmp_path) == str(python) and not created


def test_an_interrupted_venv_is_not_left_behind(setup_env, monkeypatch, tmp_path):
    def run(command):
        python = Path(command[3]) / 'bin' / 'python'  # there, but pip is not yet
        python.parent.mkdir(parents=True)
        python.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env.subprocess, 'run', run)
    with pytest.raises(KeyboardInterrupt):
        setup_env.create_venv(tmp_path / '.venv')
    assert not list(tmp_path.iterdir())


def test_a_family_asked_for_by_name_leaves_the_active_environment_alone(
    setup_env, monkeypatch, tmp_path
):
    monkeypatch.setattr(setup_env, 'find_problems', lambda python, wanted: {'mmcv': 'missing'})
    monkeypatch.setattr(setup_env, 'create_venv', lambda venv: None)
    monkeypatch.setattr(setup_env, 'is_active', lambda: True)
    assert setup_env.find_environment(['mmcv'], tmp_path) == sys.executable
    found = setup_env.find_environment(['mmcv'], tmp_path, active_too=False)
    assert found == str(tmp_path / 'bin' / 'python')


@pytest.mark.parametrize(
    ('arguments', 'installed', 'family'),
    [
        ([], 'mmcv', 'open-mmlab'),
        ([], 'onedl-mmcv', 'onedl'),
        (['--family', 'onedl'], 'mmcv', 'onedl'),
        (['--family', 'open-mmlab'], 'onedl-mmcv', 'open-mmlab'),
    ],
)
def test_the_family_decides_what_is_installed_and_where(
    setup_env, monkeypatch, arguments, installed, family
):
    def version(name):
        if name != installed:
            raise setup_env.importlib.metadata.PackageNotFoundError(name)

    def find_environment(wanted, venv, active_too):
        found.update(wanted=wanted, venv=venv, active_too=active_too)
        return sys.executable

    found = {}
    monkeypatch.setattr(setup_env.importlib.metadata, 'version', version)
    monkeypatch.setattr(setup_env, 'find_environment', find_environment)
    monkeypatch.setattr(setup_env, 'find_problems', lambda python, wanted: {})
    monkeypatch.setattr(sys, 'argv', ['setup_env.py', '--dev', *arguments])
    setup_env.main()
    assert found['venv'] == ROOT / {'open-mmlab': '.venv', 'onedl': '.venv-onedl'}[family]
    assert found['active_too'] == (not arguments)
    packages = [setup_env.name_of(line) for line in found['wanted']]
    forks = ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmdetection']
    own = ['mmengine', 'mmcv', 'mmsegmentation', 'mmdet']
    there, absent = (forks, own) if family == 'onedl' else (own, forks)
    assert set(there) <= set(packages) and not set(absent) & set(packages)
    assert {'torch', 'ftfy', 'pytest', 'cv2', 'mmseg_reco'} <= set(packages)


@pytest.mark.parametrize('version', [(3, 9, 1), (3, 13, 0)])
def test_other_pythons_are_refused(setup_env, monkeypatch, version):
    monkeypatch.setattr(setup_env.sys, 'version_info', version)
    with pytest.raises(SystemExit, match='3.10 to 3.12'):
        setup_env.check_python_version()


class Recorder:
    """Stands for the commands of an Installer: records them, none fails but those named."""

    def __init__(
        self, setup_env, monkeypatch, torch='2.13.0+cpu', failing=(), family='open-mmlab'
    ):
        self.calls, self.failing, self.problems = [], failing, {}
        self.installer = setup_env.Installer(sys.executable, family)
        monkeypatch.setattr(setup_env, 'reachable', lambda url: False)
        monkeypatch.setattr(setup_env, 'find_problems', self.find_problems)
        monkeypatch.setattr(self.installer, 'run', self.run)
        monkeypatch.setattr(self.installer, 'ask', lambda code: torch)

    def install(self, problems, after_build_tools=None):
        self.problems = problems if after_build_tools is None else after_build_tools
        self.installer.install(problems)

    def find_problems(self, python, wanted):
        return {line: reason for line, reason in self.problems.items() if line in wanted}

    def run(self, *args, quiet=False):
        self.calls.append(' '.join(args))
        return int(any(text in self.calls[-1] for text in self.failing))

    def installs(self):
        prefix = '-m pip install '
        return [call.removeprefix(prefix) for call in self.calls if call.startswith(prefix)]


NOT_THERE = "ModuleNotFoundError: No module named 'torch'"


def test_torch_comes_before_what_is_built_against_it(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)  # no GPU
    recorder = Recorder(setup_env, monkeypatch)
    problems = {'ftfy': 'x', 'torch>=2.1': NOT_THERE, 'mmseg_reco': 'x'}
    recorder.install(problems)
    assert recorder.installs() == [
        'setuptools>=77,<81 wheel ninja packaging',
        'torch==2.13.0+cpu',
        'ftfy',
        '--no-deps --no-build-isolation -e .',
    ]
    constraint = (ROOT / recorder.installer.env['PIP_CONSTRAINT'].split()[-1]).read_text()
    assert 'setuptools>=77,<81' in constraint.splitlines()


def test_torch_falls_back_to_what_there_is(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    recorder = Recorder(setup_env, monkeypatch, failing=['torch==2.13.0'])
    recorder.installer.install_torch(NOT_THERE)
    assert recorder.installs() == ['torch==2.13.0+cpu', 'torch==2.13.0', 'torch>=2.1']


def test_an_installed_torch_is_never_replaced(setup_env, monkeypatch):
    recorder = Recorder(setup_env, monkeypatch)
    for reason in ('version 1.13.1', "ModuleNotFoundError: No module named 'typing_extensions'"):
        with pytest.raises(SystemExit, match='left alone') as caught:
            recorder.installer.install_torch(reason)
        assert reason in str(caught.value)
    recorder.install({'ftfy': 'x'})
    assert not any('torch' in call for call in recorder.installs())


def test_without_packaging_what_is_there_does_not_count_as_missing(setup_env, monkeypatch):
    no_packaging = "ModuleNotFoundError: No module named 'packaging'"
    recorder = Recorder(setup_env, monkeypatch)
    recorder.install(dict.fromkeys(['torch>=2.1', 'numpy', 'ftfy'], no_packaging), {'ftfy': 'x'})
    assert recorder.installs() == ['setuptools>=77,<81 wheel ninja packaging', 'ftfy']


def test_old_torch_gets_numpy_1(setup_env, monkeypatch):
    recorder = Recorder(setup_env, monkeypatch, torch='2.1.2')
    recorder.install({'numpy': 'x'})
    assert recorder.installs()[-1] == 'numpy numpy<2'


def test_pip_failure_stops_with_a_hint(setup_env, monkeypatch):
    recorder = Recorder(setup_env, monkeypatch, failing=['install ftfy'])
    with pytest.raises(SystemExit, match='PIP_FIND_LINKS'):
        recorder.install({'ftfy': 'x'})


@pytest.mark.parametrize('family', ['open-mmlab', 'onedl'])
def test_mmcv_is_proved_by_importing_its_operators(setup_env, monkeypatch, family):
    """A wheel that pip kept for another torch does not load: it is compiled afresh."""
    recorder = Recorder(setup_env, monkeypatch, failing=['--only-binary'], family=family)
    builds, loads = [], iter([False, True, True])
    monkeypatch.setattr(recorder.installer, 'build_mmcv', lambda *options: builds.append(options))
    monkeypatch.setattr(recorder.installer, 'mmcv_works', lambda: next(loads))
    recorder.installer.install_mmcv()
    assert len(builds) == 2 and '--no-cache-dir' not in builds[0] and '--no-cache-dir' in builds[1]
    assert recorder.calls[0].endswith('mmcv mmcv-lite onedl-mmcv')  # what it takes the place of
    assert recorder.installs()[-1] == setup_env.MMCV[family]


@pytest.mark.parametrize('place', ['.venv', 'elsewhere'])
def test_another_mmcv_is_replaced_in_the_own_environment_alone(
    setup_env, monkeypatch, tmp_path, place
):
    monkeypatch.setitem(setup_env.VENVS, 'open-mmlab', tmp_path / '.venv')
    recorder = Recorder(setup_env, monkeypatch)
    recorder.installer.python = str(tmp_path / place / 'bin' / 'python')
    problems = {'mmcv>=2.0.0,<2.2.0': 'version 2.2.0', 'ftfy': 'x'}
    if place == '.venv':
        recorder.install(problems)
        assert recorder.installs()[-1].endswith('mmcv==2.1.0')
    else:
        with pytest.raises(SystemExit, match='pip uninstall -y mmcv') as caught:
            recorder.install(problems)
        assert 'version 2.2.0; mmcv>=2.0.0,<2.2.0 is needed' in str(caught.value)
        assert 'ftfy' not in recorder.installs()  # nothing is changed that needs this mmcv


@pytest.fixture
def stub_python(tmp_path, monkeypatch):
    """A Python whose stub of torch sees a GPU; its pip shows which GPUs a build would see."""
    torch = tmp_path / 'torch'
    (torch / 'utils').mkdir(parents=True)
    (torch / '__init__.py').write_text(
        'class version:\n    cuda = "12.1"\nclass cuda:\n    is_available = lambda: True\n')
    (torch / 'utils' / '__init__.py').touch()
    (torch / 'utils' / 'cpp_extension.py').write_text(
        'import os\nCUDA_HOME = os.environ.get("CUDA_HOME")\n')
    python = tmp_path / 'bin' / 'python'
    python.parent.mkdir()
    python.write_text(
        '#!/bin/sh\n[ "$1" = -m ] && exec echo "GPUs: ${CUDA_VISIBLE_DEVICES-all}"\n'
        f'exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    for name in ('CUDA_VISIBLE_DEVICES', 'CUDA_HOME', 'FORCE_CUDA'):
        monkeypatch.delenv(name, raising=False)
    return python


@pytest.mark.parametrize('found', ['in CUDA_HOME', 'not found', 'forced'])
def test_nvcc_is_looked_for_where_torch_does(
    setup_env, monkeypatch, capsys, tmp_path, stub_python, found
):
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'cuda'))
    if found == 'in CUDA_HOME':
        (tmp_path / 'cuda' / 'bin').mkdir(parents=True)
        (tmp_path / 'cuda' / 'bin' / 'nvcc').touch()
    if found == 'forced':
        monkeypatch.setenv('FORCE_CUDA', '1')
    setup_env.Installer(str(stub_python)).build_mmcv()
    without = found == 'not found'
    assert (tmp_path / 'mmcv-build.log').read_text() == ('GPUs: \n' if without else 'GPUs: all\n')
    assert ('without CUDA operators' in capsys.readouterr().out) == without


def test_a_proxy_that_speaks_no_http_counts_as_no_network(setup_env, monkeypatch):
    def answer():
        connection, _ = server.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b'\x05\xff')  # SOCKS: no acceptable method

    for name in ('no_proxy', 'NO_PROXY'):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.settimeout(10)
        monkeypatch.setenv('https_proxy', f'socks5://127.0.0.1:{server.getsockname()[1]}')
        thread = threading.Thread(target=answer)
        thread.start()
        assert not setup_env.reachable('https://download.openmmlab.com')
        thread.join()


def test_opencv_that_lacks_libgl_is_replaced(setup_env, monkeypatch):
    recorder = Recorder(setup_env, monkeypatch)
    libgl = {'cv2': 'ImportError: libGL.so.1: cannot open shared object file'}
    recorder.install(libgl)
    assert recorder.calls[-2:] == [
        '-m pip uninstall -y -q opencv-python opencv-python-headless',
        '-m pip install opencv-python-headless',
    ]


def test_a_missing_compiler_is_named(setup_env, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.sysconfig, 'get_path', lambda name: str(tmp_path))
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    explained = setup_env.explain_build_failure(with_cuda=False)
    assert 'no C++ compiler' in explained and 'headers are missing' in explained
    (tmp_path / 'Python.h').touch()
    monkeypatch.setattr(
        setup_env.shutil, 'which', lambda name: '/bin/g++' if 'g++' in name else None
    )
    assert not setup_env.explain_build_failure(with_cuda=False)
    assert 'CUDA_VISIBLE_DEVICES=' in setup_env.explain_build_failure(with_cuda=True)


# make and CI --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('lint', 'test', 'summary', 'status'),
    [
        (0, 0, '==== 3 passed, 1 skipped in 0.12s ====', 0),
        (0, 2, '==== 1 failed, 3 passed in 63.01s (0:01:03) ====', 1),
        (2, 0, '3 passed in 0.12s', 1),
        (0, 2, 'no tests ran in 0.01s', 1),
    ],
)
def test_ci_ends_with_pytests_summary(tmp_path, lint, test, summary, status):
    make = tmp_path / 'make'
    make.write_text(
        f'#!/bin/sh\n[ "$1" = lint ] && exit {lint}\n'
        f'echo "$CI"; echo "{summary}"; echo "make: *** [test] Error" >&2; exit {test}\n'
    )
    make.chmod(0o755)
    environment = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}')
    done = subprocess.run(
        [ROOT / '.ci' / 'run'], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == status
    assert done.stdout.splitlines()[0] == 'true'
    assert done.stdout.splitlines()[-1] == summary
