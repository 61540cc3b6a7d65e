# Licensed under the Apache License, Version 2.0.
"""Set up a Python environment in which mmseg_reco works, then run a command in it.

    python3 tools/setup_env.py [--dev] [--family onedl] [-- ARGUMENTS FOR PYTHON ...]

The environment is, in this order: the running Python, if it has everything; ``.venv`` in this
repository, if it exists; the virtual or conda environment that is active; a new ``.venv``. What is
already there is kept (torch above all), only what is missing is installed. Needs nothing but the
standard library, and a C++ compiler where no prebuilt mmcv fits.

``--family`` chooses between OpenMMLab's own packages and the onedl forks; without it, the forks are
taken where the running Python has them. Both have the same import names and cannot share an
environment: the forks live in ``.venv-onedl``, and a family that is asked for by name is never
installed into the active environment.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = {'open-mmlab': ROOT / '.venv', 'onedl': ROOT / '.venv-onedl'}
TORCH, TORCH_MIN = 'torch==2.13.0', 'torch>=2.1'  # the tested one, and the oldest that works
TORCH_CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
MMCV = {'open-mmlab': 'mmcv==2.1.0', 'onedl': 'onedl-mmcv==2.3.6'}
MMCV_INDEX = 'https://download.openmmlab.com/mmcv/dist/{device}/torch{torch}/index.html'

FORKS = {  # what takes the place of what
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmsegmentation': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
}

# Runs inside the environment. A requirement counts as met when its version fits; the OpenMMLab
# packages are asked themselves, whatever the name under which they were installed.
CHECK = r"""
import importlib, importlib.metadata, importlib.util, json, sys

MODULES = {
    'torch': 'torch', 'mmengine': 'mmengine', 'mmcv': 'mmcv', 'mmsegmentation': 'mmseg',
    'onedl-mmengine': 'mmengine', 'onedl-mmcv': 'mmcv', 'onedl-mmsegmentation': 'mmseg',
}

def check(line):
    if line == 'cv2':
        importlib.import_module(line)
    elif line == 'mmseg_reco':
        if importlib.util.find_spec(line) is None:
            return 'not installed'
    else:
        from packaging.requirements import Requirement
        requirement = Requirement(line)
        module = MODULES.get(requirement.name)
        if module:
            found = importlib.import_module(module).__version__
        else:
            found = importlib.metadata.version(requirement.name)
        if not requirement.specifier.contains(found, prereleases=True):
            return f'version {found}'
        if module == 'mmcv':
            importlib.import_module('mmcv.ops')

problems = {}
for line in sys.argv[1:]:
    try:
        problem = check(line)
    except Exception as error:
        problem = f'{type(error).__name__}: {error}'
    if problem:
        problems[line] = problem
print(json.dumps(problems))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dev', action='store_true', help='also what tests and lint need')
    parser.add_argument('--family', choices=VENVS, help="OpenMMLab's packages or the onedl forks")
    parser.add_argument('command', nargs='*', help='arguments for the Python of the environment')
    args = parser.parse_args()
    family = args.family or running_family()
    wanted = read_requirements('requirements.txt')
    if args.dev:
        wanted += read_requirements('requirements/dev.txt')
    if family == 'onedl':
        wanted = with_forks(wanted)
    wanted += ['cv2', 'mmseg_reco']

    python = find_environment(wanted, VENVS[family], active_too=args.family is None)
    problems = find_problems(python, wanted)
    if problems:
        Installer(python, family).install(problems)
        problems = find_problems(python, wanted)
        if problems:
            lines = [f'  {name}: {reason}' for name, reason in problems.items()]
            stop('The environment is still not complete:\n' + '\n'.join(lines))
        say(f'The environment is complete: {python}')
    if args.command:
        paths = [str(ROOT), os.environ.get('PYTHONPATH')]
        os.environ['PYTHONPATH'] = os.pathsep.join(path for path in paths if path)
        os.environ['PATH'] = f'{Path(python).parent}{os.pathsep}{os.environ.get("PATH", "")}'
        sys.stdout.flush()
        os.execv(python, [python, *args.command])


def say(message: str) -> None:
    print(f'[setup] {message}', flush=True)


def stop(message: str) -> None:
    sys.exit(f'[setup] {message}')


def read_requirements(name: str) -> list[str]:
    lines = (line.split('#')[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


def running_family() -> str:
    """The family that the running Python has, OpenMMLab's if it has none."""
    try:
        importlib.metadata.version(FORKS['mmcv'])
    except importlib.metadata.PackageNotFoundError:
        return 'open-mmlab'
    return 'onedl'


def name_of(requirement: str) -> str:
    return re.match(r'[\w.-]+', requirement).group()


def with_forks(wanted: list[str]) -> list[str]:
    """Put the forks' requirements in the place of those that they replace."""
    forks = {name_of(line): line for line in read_requirements('requirements/onedl.txt')}
    return [forks.get(FORKS.get(name_of(line)), line) for line in wanted]


# Where to install --------------------------------------------------------------------------------


def find_environment(wanted: list[str], venv: Path, active_too: bool = True) -> str:
    """Choose the interpreter by the order in the module's docstring."""
    if importlib.util.find_spec('torch') and not find_problems(sys.executable, wanted):
        return sys.executable
    venv_python = venv / 'bin' / 'python'
    if venv_python.exists():
        return str(venv_python)
    check_python_version()
    if active_too and is_active():
        say(f'Installing into the active environment {sys.prefix}')
        return sys.executable
    create_venv(venv)
    return str(venv_python)


def is_active() -> bool:
    """Whether the running Python is that of a virtual or conda environment, conda's base aside."""
    in_conda = os.environ.get('CONDA_PREFIX') == sys.prefix
    is_base = os.environ.get('CONDA_DEFAULT_ENV') == 'base'
    return sys.prefix != sys.base_prefix or (in_conda and not is_base)


def check_python_version() -> None:
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        stop(
            f'This is Python {platform.python_version()}; mmcv 2.1 works with 3.10 to 3.12. '
            'Install one of these and name it, for example: make demo PYTHON=python3.11'
        )


def create_venv(venv: Path) -> None:
    """Make an environment, letting it see the system's packages if torch is among them."""
    if importlib.util.find_spec('ensurepip') is None:
        version = f'{sys.version_info[0]}.{sys.version_info[1]}'
        stop(
            'This Python cannot make virtual environments (no ensurepip). On Debian and Ubuntu: '
            f'sudo apt install python{version}-venv'
        )
    say(f'Creating {venv}')
    command = [sys.executable, '-m', 'venv', str(venv)]
    if importlib.util.find_spec('torch'):
        command.append('--system-site-packages')
    made = False
    try:
        made = subprocess.run(command).returncode == 0
    finally:
        if not made:  # nor when interrupted: the next run would take it, and it has no pip
            shutil.rmtree(venv, ignore_errors=True)
    if not made:
        stop(f'Creating {venv} failed; the reason stands above.')


def find_problems(python: str, wanted: list[str]) -> dict[str, str]:
    """Ask an interpreter which requirements it does not meet, and why.

    It runs beside itself, so that this repository's folder does not count as an installation.
    """
    try:
        result = subprocess.run(
            [python, '-W', 'ignore', '-c', CHECK, *wanted],
            cwd=Path(python).parent,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        stop(f'{python} does not run ({error}). Delete its environment and start again.')
    if result.returncode:
        stop(f'{python} failed while its packages were checked:\n{result.stderr}')
    return json.loads(result.stdout.splitlines()[-1])


# Installing --------------------------------------------------------------------------------------


class Installer:
    """Installs into one interpreter, in the order that works: torch, the plain packages, mmcv."""

    def __init__(self, python: str, family: str = 'open-mmlab') -> None:
        self.python = python
        self.mmcv = MMCV[family]
        self.mmcv_name = name_of(self.mmcv)
        # Relative and from ROOT, since pip splits these at spaces. The constraint keeps torch from
        # pulling a setuptools without pkg_resources, which mmcv's build and mmengine read.
        constraints = 'requirements/constraints.txt'
        self.env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK='1')
        self.env['PIP_CONSTRAINT'] = f'{os.environ.get("PIP_CONSTRAINT", "")} {constraints}'.strip()
        self.env['PIP_BUILD_CONSTRAINT'] = constraints
        self.env['PYTHONUNBUFFERED'] = '1'

    def install(self, problems: dict[str, str]) -> None:
        """Mend what :func:`find_problems` found."""
        say('Missing: ' + ', '.join(problems))
        if self.run('-m', 'pip', '--version', quiet=True):
            stop(f'{self.python} has no pip: delete its environment, or install pip into it.')
        if set(problems) != {'mmseg_reco'}:
            self.pip('the build tools', 'setuptools>=77,<81', 'wheel', 'ninja', 'packaging')
            # Where packaging was missing, everything had looked missing.
            problems = find_problems(self.python, list(problems))
        special = {name: self.named(problems, name) for name in ('torch', self.mmcv_name)}
        mmcv = special[self.mmcv_name] or self.mmcv_name
        if problems.get(mmcv, '').startswith('version ') and not self.is_own():
            stop(
                f'The mmcv that is installed does not fit ({problems[mmcv]}; {mmcv} is needed). It '
                'is left alone: run this outside its environment, or again after '
                f'{self.python} -m pip uninstall -y {self.mmcv_name}'
            )
        if special['torch']:
            self.install_torch(problems[special['torch']])
        plain = [n for n in problems if n not in (*special.values(), 'cv2', 'mmseg_reco')]
        if self.torch_version() < (2, 3):
            plain.append('numpy<2')  # older torch is compiled against numpy 1
        if plain:
            self.pip('the plain packages', *plain)
        if find_problems(self.python, [mmcv]):
            self.install_mmcv()
        if 'cv2' in find_problems(self.python, ['cv2']):
            self.install_headless_opencv()
        if 'mmseg_reco' in problems:
            self.pip('mmseg_reco', '--no-deps', '--no-build-isolation', '-e', '.')

    @staticmethod
    def named(problems: dict[str, str], name: str) -> str | None:
        return next((line for line in problems if name_of(line) == name), None)

    def is_own(self) -> bool:
        """Whether this repository's set-up made the environment."""
        return Path(self.python).parent.parent in VENVS.values()

    def run(self, *args: str, quiet: bool = False) -> int:
        sink = subprocess.DEVNULL if quiet else None
        return subprocess.run(
            [self.python, *args], cwd=ROOT, env=self.env, stdout=sink, stderr=sink
        ).returncode

    def pip(self, what: str, *args: str, required: bool = True) -> bool:
        """Run ``pip install``; without success, stop if it is required."""
        otherwise = '' if required else ' (if there is none, another way follows)'
        say(f'Installing {what}{otherwise}: pip install {" ".join(args)}')
        done = self.run('-m', 'pip', 'install', *args) == 0
        if required and not done:
            stop(
                f'pip could not install {what}; its reason stands above. Without a network, put '
                'the wheels into a folder and set PIP_FIND_LINKS to it.'
            )
        return done

    def ask(self, code: str) -> str:
        return subprocess.check_output([self.python, '-W', 'ignore', '-c', code], text=True).strip()

    def torch_version(self) -> tuple[int, int]:
        major, minor = self.ask('import torch; print(torch.__version__)').split('.')[:2]
        return int(major), int(minor)

    def torch_cuda(self) -> str:
        return self.ask("import torch; print(torch.version.cuda or '')")

    def can_compile_cuda(self) -> bool:
        """Whether torch sees a GPU and finds nvcc, on PATH, in CUDA_HOME or at the usual place."""
        return self.ask(
            'import os, torch; from torch.utils.cpp_extension import CUDA_HOME; '
            'print(bool(CUDA_HOME) and torch.cuda.is_available() '
            "and os.path.exists(os.path.join(CUDA_HOME, 'bin', 'nvcc')))"
        ) == 'True'

    def install_torch(self, reason: str) -> None:
        """Install the tested torch, its CPU build where there is no GPU; never replace one."""
        if reason != "ModuleNotFoundError: No module named 'torch'":
            stop(
                f'The torch that is installed does not fit ({reason}; {TORCH_MIN} is needed). It '
                'is left alone: mend or replace it yourself, or run this outside its environment.'
            )
        if sys.platform == 'linux' and shutil.which('nvidia-smi') is None:
            cpu = f'{TORCH}+cpu'
            if self.pip('torch for CPU', cpu, required=False):
                return
            index = ('--extra-index-url', TORCH_CPU_INDEX)
            if reachable(TORCH_CPU_INDEX) and self.pip('torch', cpu, *index, required=False):
                return
        if not self.pip('torch', TORCH, required=False):
            self.pip('torch', TORCH_MIN)

    def mmcv_works(self) -> bool:
        return self.run('-W', 'ignore', '-c', 'import mmcv.ops', quiet=True) == 0

    def install_mmcv(self) -> None:
        """Install a prebuilt mmcv that fits, or compile one; importing mmcv.ops is the proof."""
        others = ('mmcv', 'mmcv-lite', FORKS['mmcv'])  # all of them write into mmcv/
        self.run('-m', 'pip', 'uninstall', '-y', '-q', *others, quiet=True)
        version = '.'.join(map(str, self.torch_version()))
        cuda = self.torch_cuda().replace('.', '')
        index = MMCV_INDEX.format(device=f'cu{cuda}' if cuda else 'cpu', torch=f'{version}.0')
        links = ('-f', index) if reachable(index) else ()
        prebuilt = ('--only-binary', self.mmcv_name, *links, self.mmcv)
        if self.pip('mmcv, prebuilt', *prebuilt, required=False):
            if self.mmcv_works():
                return
            say('That wheel does not fit the torch in this environment.')
        say("No prebuilt mmcv fits, so it is compiled (or taken from pip's cache).")
        self.build_mmcv('--force-reinstall', '--no-deps')
        if not self.mmcv_works():
            say('That mmcv does not load, perhaps one that pip kept for another torch: compiling.')
            self.build_mmcv('--force-reinstall', '--no-deps', '--no-cache-dir')
        if not self.mmcv_works():
            self.run('-c', 'import mmcv.ops')
            stop('mmcv was built, but mmcv.ops does not import; the reason stands above.')
        self.pip('what mmcv needs', self.mmcv)

    def build_mmcv(self, *options: str) -> None:
        """Compile mmcv against the installed torch, saying every few seconds how far it is."""
        env = dict(self.env, MMCV_WITH_OPS='1')
        env.setdefault('MAX_JOBS', str(compile_jobs()))
        for flags in ('CFLAGS', 'CXXFLAGS'):  # Python's own ask for -O3 and debug information
            env.setdefault(flags, '-O2 -g0 -DNDEBUG')
        env['PATH'] = f'{Path(self.python).parent}{os.pathsep}{env["PATH"]}'  # ninja
        with_cuda = env.get('FORCE_CUDA') == '1' or self.can_compile_cuda()
        if not with_cuda:
            env['CUDA_VISIBLE_DEVICES'] = ''  # with a GPU in sight its build insists on nvcc
            if self.torch_cuda():
                say(
                    'mmcv is built without CUDA operators, since torch finds no GPU here, or no '
                    'nvcc on PATH or in CUDA_HOME: MaskFormer and Mask2Former will not '
                    'work on a GPU. FORCE_CUDA=1 builds them where nvcc is, but no GPU.'
                )
        log = Path(self.python).parent.parent / 'mmcv-build.log'
        say(f'Building {self.mmcv} with {env["MAX_JOBS"]} compiler(s), about 7 minutes on 2 cores.')
        say(f'Everything the build says goes to {log}')
        command = ['-m', 'pip', 'install', '-v', '--no-build-isolation', *options, self.mmcv]
        process = subprocess.Popen(
            [self.python, *command],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        )
        step = ['downloading']

        def follow() -> None:
            with open(log, 'w') as file:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    count = re.search(r'\[(\d+)/(\d+)\]', line)
                    if count:
                        step[0] = f'compiling, file {count[1]} of {count[2]}'
                    elif 'Running command' in line:
                        step[0] = 'preparing'

        reader = threading.Thread(target=follow)
        reader.start()
        start = time.time()
        while True:
            try:
                code = process.wait(timeout=15)
                break
            except subprocess.TimeoutExpired:
                minutes, seconds = divmod(int(time.time() - start), 60)
                say(f'mmcv: {minutes} min {seconds:02d} s, {step[0]}')
        reader.join()
        if code:
            tail = ''.join(log.read_text(errors='replace').splitlines(keepends=True)[-25:])
            reasons = explain_build_failure(with_cuda)
            stop(f'Building mmcv failed:\n{tail}\n{reasons}Whole log: {log}')

    def install_headless_opencv(self) -> None:
        """Replace an OpenCV that needs the display libraries (libGL) of a desktop."""
        say('OpenCV does not load here (no libGL, say): taking the build without windows.')
        self.run('-m', 'pip', 'uninstall', '-y', '-q', 'opencv-python', 'opencv-python-headless')
        self.pip('OpenCV', 'opencv-python-headless')


def reachable(url: str) -> bool:
    """Whether an address answers at once: pip itself would retry for a minute."""
    try:
        request = urllib.request.Request(url, method='HEAD')
        with urllib.request.urlopen(request, timeout=5):
            return True
    except (OSError, ValueError, http.client.HTTPException):  # the last: a proxy without HTTP
        return False


def compile_jobs() -> int:
    """As many compilers as there are cores, but no more than memory holds (2 GiB each)."""
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return max(1, min(os.cpu_count() or 1, memory // 2**31))


def explain_build_failure(with_cuda: bool) -> str:
    """Name the usual reasons, where they hold."""
    reasons = ''
    if not any(map(shutil.which, (os.environ.get('CXX', 'c++'), 'g++', 'clang++'))):
        reasons += 'There is no C++ compiler. On Debian and Ubuntu: sudo apt install g++\n'
    if not (Path(sysconfig.get_path('include')) / 'Python.h').exists():
        reasons += (
            "Python's headers are missing. On Debian and Ubuntu: "
            f'sudo apt install python{sys.version_info[0]}.{sys.version_info[1]}-dev\n'
        )
    if with_cuda:
        reasons += 'To leave the CUDA operators out: CUDA_VISIBLE_DEVICES= and run this again.\n'
    return reasons


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        stop('Interrupted. The next run goes on from here.')
