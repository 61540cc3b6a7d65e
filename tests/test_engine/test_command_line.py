# Licensed under the Apache License, Version 2.0.
"""Arguments that tools share."""

import argparse
import pickle

import pytest

from mmseg_reco.engine import command_line


def stop(call, capsys) -> str:
    """The last line of what a call ends with."""
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_missing_config_is_named(monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    command_line.add_common_arguments(parser)
    monkeypatch.setattr('sys.argv', ['train.py', 'gone.py'])
    last = stop(lambda: command_line.parse_args(parser), capsys)
    assert last.endswith('no such config file: gone.py')


@pytest.mark.parametrize(('kind', 'given', 'expected'), [
    ('natural', '0', 0), ('natural', '12', 12), ('natural', '-1', 'at least 0, got -1'),
    ('positive_int', '1', 1), ('positive_int', '0', 'at least 1, got 0'),
    ('positive_int', 'x', 'at least 1, got x'), ('natural', '1.5', 'at least 0, got 1.5')])
def test_counts(kind, given, expected, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--number', type=getattr(command_line, kind))
    if isinstance(expected, int):
        assert parser.parse_args(['--number', given]).number == expected
    else:
        last = stop(lambda: parser.parse_args([f'--number={given}']), capsys)
        assert last.endswith(f'argument --number: must be an integer, {expected}')


@pytest.mark.parametrize('error', [
    FileNotFoundError('no a.py'), ValueError('wrong'), AssertionError('no list'),
    pickle.UnpicklingError('unsafe')])
def test_errors_of_use_are_one_sentence(error, capsys):
    def call():
        with command_line.usage_errors(argparse.ArgumentParser(prog='tool')):
            raise error
    assert stop(call, capsys) == f'tool: error: {error}'


def test_other_errors_keep_their_trace():
    with pytest.raises(KeyError), command_line.usage_errors(argparse.ArgumentParser()):
        raise KeyError('a defect')
