# Licensed under the Apache License, Version 2.0.
"""Write docs/api.md: what this package registers and exports, with signature and first line."""

import argparse
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mmengine.registry
import mmseg.registry
from mmengine.registry import Registry

import mmseg_reco

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/api.md'
INTRODUCTION = """# API

Written by `python tools/docs/make_api.py` from signatures and docstrings; a test compares.
Arguments, shapes, ranges and errors stand in the docstrings, in the files that the names link to.
`(…)` are the arguments of the base class.

## In configs

`custom_imports = dict(imports=['mmseg_reco'])` registers all of this in mmseg's registries; a
config builds it by `dict(type='Name', …)`.
"""
FUNCTIONS = """## In Python

What the subpackages export besides: plain functions, which the registered classes are thin shells
around, and the structures that they exchange.
"""


def is_ours(item: Any) -> bool:
    return getattr(item, '__module__', '').split('.')[0] == mmseg_reco.__name__


def registries() -> Iterator[tuple[str, Registry]]:
    """mmseg's registries, and mmengine's where mmseg defines none."""
    found = {name: item for module in (mmengine.registry, mmseg.registry)
             for name, item in vars(module).items() if isinstance(item, Registry)}
    yield from sorted(found.items())


def subpackages() -> Iterator[ModuleType]:
    """Every package inside this one that says what it exports, outermost first."""
    for info in pkgutil.walk_packages(mmseg_reco.__path__, f'{mmseg_reco.__name__}.'):
        if info.ispkg:
            module = importlib.import_module(info.name)
            if hasattr(module, '__all__'):
                yield module


def source(value: Any) -> str:
    """A default value as a config would write it."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={source(item)}' for key, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(source, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(source, value))}{', ' if len(value) == 1 else ''})"
    return getattr(value, '__name__', None) or repr(value)


def signature(item: Any) -> str:
    """Names of the parameters with their defaults; no annotations."""
    if inspect.isclass(item) and not issubclass(item, tuple):
        owner = next(cls for cls in item.__mro__ if '__init__' in vars(cls))
        if owner is not object and not is_ours(owner):
            return '(…)'  # of a base class whose version may be another elsewhere
        if owner is object:
            return '()'
    parts, keyword_only = [], False
    for name, parameter in inspect.signature(item).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            if '*' not in ''.join(parts):
                parts.append('*')
        prefix = {parameter.VAR_POSITIONAL: '*', parameter.VAR_KEYWORD: '**'}.get(
            parameter.kind, '')
        default = '' if parameter.default is parameter.empty else f'={source(parameter.default)}'
        parts.append(f'{prefix}{name}{default}')
    return f"({', '.join(parts)})"


def row(name: str, item: Any) -> str:
    path = Path(inspect.getsourcefile(inspect.unwrap(item))).resolve().relative_to(ROOT)
    summary = ' '.join((inspect.getdoc(item) or '').split('\n\n')[0].split())
    summary = re.sub(r':\w+:(?=`)', '', summary).replace('``', '`').replace('|', r'\|')
    call = signature(item).replace('|', r'\|')
    return f'| [`{name}`](../{path}) `{call}` | {summary} |'


def table(rows: list[str]) -> str:
    return '\n'.join(['| | |', '| --- | --- |', *rows]) + '\n'


def make_page() -> str:
    """The page as text."""
    parts, registered = [INTRODUCTION], set()
    for name, registry in registries():
        registry.import_from_location()
        ours = {key: item for key, item in registry.module_dict.items() if is_ours(item)}
        if ours:
            registered.update(ours.values())
            parts += [f'### {name}\n', table([row(*item) for item in sorted(ours.items())])]
    parts.append(FUNCTIONS)
    seen: set = set()
    for module in subpackages():
        exported = {name: getattr(module, name) for name in module.__all__}
        ours = {name: item for name, item in exported.items()
                if callable(item) and item not in registered and item not in seen}
        if ours:
            seen.update(ours.values())
            parts += [f'### {module.__name__}\n',
                      table([row(*item) for item in sorted(ours.items())])]
    return '\n'.join(parts)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/docs/make_api.py').parse_args()
    PAGE.write_text(make_page())
    print(f'Written: {PAGE.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
