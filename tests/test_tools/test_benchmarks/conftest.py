# Licensed under the Apache License, Version 2.0.
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import load_script

BENCHMARKS = Path(__file__).parents[3] / 'tools/benchmarks'


@pytest.fixture
def load_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Makes a module of a benchmark, given by its name."""
    monkeypatch.setenv('OMP_WAIT_POLICY', 'PASSIVE')  # so that the import leaves no trace
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: load_script(BENCHMARKS / f'{name}.py')


@pytest.fixture
def run_benchmark(load_benchmark: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch,
                  capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs a benchmark as its command line does, on a GPU if there is one; returns its output."""

    def run(name: str, *words: object, **changes: object) -> str:
        module = load_benchmark(name)
        for attribute, value in changes.items():
            monkeypatch.setattr(module, attribute, value)
        monkeypatch.setattr('sys.argv', [f'{name}.py', *map(str, words)])
        threads = torch.get_num_threads()
        try:
            module.main()
        finally:
            torch.set_num_threads(threads)
        return capsys.readouterr().out

    return run
