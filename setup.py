# Licensed under the Apache License, Version 2.0.
"""Packaging, with the MIM extension: a wheel has configs, tools, index in ``mmseg_reco/.mim``."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_ITEMS = ('configs', 'tools', 'model-index.yml')
# What serves the repository alone: a benchmark needs its tests, the API page goes into its docs.
MIM_LEFT_OUT = shutil.ignore_patterns('__pycache__', 'benchmarks', 'docs')
# These can come from forks under another distribution name, and mmcv has no wheel on PyPI, so pip
# must not be made to resolve them; mmseg_reco checks their versions when it is imported.
OPENMMLAB = ('mmengine', 'mmcv', 'mmsegmentation')


class BuildWithMim(build_py):
    """Add ``.mim`` to a wheel; in the sources of an editable install mim does not look for it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'mmseg_reco' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM_ITEMS:
            source, target = ROOT / name, mim / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=MIM_LEFT_OUT)
            else:
                shutil.copy2(source, target)


def requirements(name: str) -> list[str]:
    """Read a requirements file, without comments and empty lines."""
    lines = (line.split('#')[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


def is_openmmlab(requirement: str) -> bool:
    return re.match(r'[\w.-]+', requirement).group() in OPENMMLAB


runtime = requirements('requirements.txt')
setup(
    name='mmseg_reco',
    version=re.search(r"'(.+)'", (ROOT / 'mmseg_reco/version.py').read_text()).group(1),
    description='ReCo and RC2L (a reconstruction) for MMSegmentation: segmentation from few labels',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmseg_reco', 'mmseg_reco.*']),
    package_data={'mmseg_reco': ['py.typed']},
    install_requires=[line for line in runtime if not is_openmmlab(line)],
    extras_require={
        'mim': [line for line in runtime if is_openmmlab(line)],
        'rc2l': ['mmdet>=3.1,<4'],
        'dev': requirements('requirements/dev.txt'),
    },
    cmdclass={'build_py': BuildWithMim},
)
