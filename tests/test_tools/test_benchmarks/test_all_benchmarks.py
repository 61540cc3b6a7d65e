# Licensed under the Apache License, Version 2.0.
"""Every benchmark runs in a test; here those whose parts are not tested by themselves."""
import re
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[2] / 'tools/benchmarks'


def test_each_is_run_by_a_test():
    tests = ''.join(path.read_text() for path in HERE.glob('test_*.py'))
    run = set(re.findall(r"run_benchmark\(\s*'(\w+)'", tests))
    assert run == {path.stem for path in BENCHMARKS.glob('*.py') if '__main__' in path.read_text()}


def numbers(line):
    return [float(number) for number in re.findall(r'\d+\.\d+', line)]


def test_batch_augmentation(run_benchmark):
    printed = run_benchmark('batch_augmentation', '--batch-size', 2, '--crop', 33, '--threads', 1,
                            '--rounds', 2)
    lines = printed.splitlines()[1:]
    assert len(lines) == 6 and all(min(numbers(line)) > 0 for line in lines)


def test_data_loading(run_benchmark, tiny_config):
    printed = run_benchmark('data_loading', tiny_config, '--samples', 2, '--workers', 0,
                            '--steps', 1, '--rounds', 1)
    transforms, alone, steps = printed.strip().split('\n\n')
    names = [line.split()[0] for line in transforms.splitlines()[1:]]
    assert names == ['LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs', 'sum']
    assert min(numbers(alone.splitlines()[1])) > 0
    memory, workers = (numbers(line)[::3] for line in steps.splitlines()[2:])
    assert 0 <= memory[1] < workers[1] < workers[0]


def test_partial_labels(run_benchmark, tmp_path):
    labels = np.full((12, 14), 255, np.uint8)
    labels[2:, :5], labels[:7, 6:] = 0, 3
    (tmp_path / 'folder').mkdir()
    for name in ('a', 'folder/b'):
        Image.fromarray(labels).save(tmp_path / f'{name}.png')
    printed = run_benchmark('partial_labels', tmp_path, '--levels', 'p0', 'p25', '--workers', 1, 2,
                            '--rounds', 1)
    memory, files = printed.split('\n\n')
    assert memory.startswith('2 masks')
    assert [line[:16].strip() for line in memory.splitlines()[2:5]] == ['p0', 'p25', 'p0 p25']
    assert [line[:28].strip() for line in files.splitlines()[1:]] == [
        'dilation loop, 1 process', 'converter, 1 process', 'converter, 2 processes']
