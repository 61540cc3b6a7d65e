# Licensed under the Apache License, Version 2.0.
"""ReCo and RC²L (a reconstruction) for MMSegmentation.

Importing this package registers all of it in mmseg's registries.

``custom_imports = dict(imports=['mmseg_reco'])`` in a config is therefore all that stock mmseg
needs. The maintained forks (onedl-mmengine, onedl-mmcv, onedl-mmsegmentation) keep the import names
and are checked in the same way.
"""

from collections.abc import Mapping
from importlib import import_module

from packaging.specifiers import SpecifierSet

from mmseg_reco.version import __version__

# import name -> (name on the package index, versions that work here)
_REQUIRED = {
    'mmengine': ('mmengine', '>=0.10,<1.0'),
    'mmcv': ('mmcv', '>=2.0.0,<2.2.0'),
    'mmseg': ('mmsegmentation', '>=1.2,<1.3'),
}


def check_versions(versions: Mapping[str, str]) -> None:
    """Refuse versions of the OpenMMLab packages that this package does not work with.

    Args:
        versions: Import name (``mmengine``, ``mmcv`` or ``mmseg``) to version string.

    Raises:
        ImportError: A version lies outside the supported range; the message says what to install.
    """
    for module, version in versions.items():
        package, supported = _REQUIRED[module]
        if not SpecifierSet(supported).contains(version, prereleases=True):
            raise ImportError(
                f'{module} {version} is installed, but mmseg_reco {__version__} needs '
                f"{package}{supported}. Install it with: pip install '{package}{supported}'"
            )


def _check_installed() -> None:
    """Check the packages one by one: mmseg refuses a wrong mmcv with less helpful words."""
    for module, (package, supported) in _REQUIRED.items():
        try:
            version = import_module(module).__version__
            check_versions({module: version})
            if module == 'mmcv':
                import_module('mmcv.ops')
        except ModuleNotFoundError as error:
            if error.name == module:
                raise ImportError(
                    f'mmseg_reco needs {package}{supported}, which is not installed. '
                    "'python3 tools/setup_env.py' sets up a complete environment."
                ) from error
            if error.name == 'mmcv._ext':
                raise ImportError(
                    f'mmcv {version} is installed without its compiled operators (mmcv-lite, or a '
                    'build that left them out), which mmseg needs. Install the full mmcv: '
                    'pip uninstall -y mmcv mmcv-lite, then python3 tools/setup_env.py'
                ) from error
            raise


_check_installed()

from mmseg_reco import datasets, engine, models, visualization  # noqa: E402

__all__ = ['__version__', 'check_versions', 'datasets', 'engine', 'models', 'visualization']
