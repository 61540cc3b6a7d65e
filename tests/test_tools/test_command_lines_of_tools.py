# Licensed under the Apache License, Version 2.0.
"""What every command line tool of this repository says, and how it ends."""
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = [path for path in sorted((ROOT / 'tools').rglob('*.py')) if '__main__' in path.read_text()]


def run(tool, monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', [str(tool), *args])
    monkeypatch.syspath_prepend(str(tool.parent))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tool), run_name='__main__')
    return end.value.code


@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: str(path.relative_to(ROOT / 'tools')))
def test_help_has_an_example_and_wrong_usage_ends_with_2(tool, monkeypatch, capsys):
    assert not run(tool, monkeypatch, '--help')
    said = capsys.readouterr().out
    assert f'python{3 if tool.name == "setup_env.py" else ""} {tool.relative_to(ROOT)}' in said
    assert run(tool, monkeypatch, '--no-such-option') == 2
    assert 'usage:' in capsys.readouterr().err
