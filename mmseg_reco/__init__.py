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

# family -> import name -> (name on the package index, versions that work here)
_FAMILIES = {
    'open-mmlab': {
        'mmengine': ('mmengine', '>=0.10,<1.0'),
        'mmcv': ('mmcv', '>=2.0.0,<2.2.0'),
        'mmseg': ('mmsegmentation', '>=1.2,<1.3'),
    },
    'onedl': {
        'mmengine': ('onedl-mmengine', '>=0.10.8,<1.0'),
        'mmcv': ('onedl-mmcv', '>=2.3,<2.4'),
        'mmseg': ('onedl-mmsegmentation', '>=1.4,<1.5'),
    },
}


def check_versions(versions: Mapping[str, str]) -> None:
    """Refuse versions of the OpenMMLab packages that this package does not work with.

    All of them must fit one family: OpenMMLab's own packages, or the onedl forks.

    Args:
        versions: Import name (``mmengine``, ``mmcv`` or ``mmseg``) to version string.

    Raises:
        ImportError: A version lies outside the supported ranges, or is not of the family that the
            ones before it are of; the message says what to install.
    """
    families = list(_FAMILIES.values())
    for module, version in versions.items():
        wanted = [family[module] for family in families]
        families = [family for family in families if _contains(family[module][1], version)]
        if not families:
            names = [package + supported for package, supported in wanted]
            raise ImportError(
                f'{module} {version} is installed, but mmseg_reco {__version__} needs '
                f"{' or '.join(names)}. Install it with: pip install '{names[0]}'"
            )


def _contains(supported: str, version: str) -> bool:
    return SpecifierSet(supported).contains(version, prereleases=True)


def _check_installed() -> None:
    """Check the packages one by one: mmseg refuses a wrong mmcv with less helpful words."""
    versions = {}
    for module, (package, supported) in _FAMILIES['open-mmlab'].items():
        try:
            versions[module] = import_module(module).__version__
            check_versions(versions)
            if module == 'mmcv':
                import_module('mmcv.ops')
        except AssertionError as error:  # mmsegmentation's own check
            raise ImportError(
                f'{module} refuses the packages beside it: {error} Take mmengine, mmcv and '
                'mmsegmentation all from OpenMMLab, or all from the onedl forks.'
            ) from error
        except ModuleNotFoundError as error:
            if error.name == module:
                raise ImportError(
                    f'mmseg_reco needs {package}{supported}, which is not installed. '
                    "'python3 tools/setup_env.py' sets up a complete environment."
                ) from error
            if error.name == 'mmcv._ext':
                raise ImportError(
                    f'mmcv {versions[module]} is installed without its compiled operators '
                    '(mmcv-lite, or a build that left them out), which mmseg needs. Install the '
                    'full mmcv: pip uninstall -y mmcv mmcv-lite, then python3 tools/setup_env.py'
                ) from error
            raise


def _find_configs() -> None:
    """Let ``mmseg::`` in a config find the fork, whose mmengine still looks for mmsegmentation."""
    package, supported = _FAMILIES['onedl']['mmseg']
    if _contains(supported, import_module('mmseg').__version__):
        import_module('mmengine.config.utils').MODULE2PACKAGE['mmseg'] = package


_check_installed()
_find_configs()

from mmseg_reco import datasets, engine, models, utils, visualization  # noqa: E402

__all__ = [
    '__version__', 'check_versions', 'datasets', 'engine', 'models', 'utils', 'visualization'
]
