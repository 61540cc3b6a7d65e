# Licensed under the Apache License, Version 2.0.
"""Results of runs: read from a work directory, kept as lines of JSON."""

import json
import os
import re
from pathlib import Path
from typing import Any

from mmseg_reco.datasets.files import whole_file

OUTPUT = 'output.log'
HISTORY = 'history.json'
_TABLE_ROW = re.compile(r'^\|\s*(.+?)\s*\|\s*([\d.]+|nan)\s*\|\s*(?:[\d.]+|nan)\s*\|$')
_ITERATION = re.compile(r'Iter\(train\)\s*\[\s*(\d+)/(\d+)\].*?eta: (\S+(?: days?, \S+)?)')


def validations(work_dir: Path) -> dict[int, dict[str, float]]:
    """Metrics of every validation of a run, by iteration; of one made twice, the later."""
    found = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a process that was killed
                continue
            if any(key.split('/')[-1] == 'mIoU' for key in entry):
                found[int(entry['step'])] = entry
    return dict(sorted(found.items()))


def class_tables(text: str) -> list[dict[str, float]]:
    """The tables ``per class results`` of a log, in their order: IoU by class."""
    tables = []
    for part in text.split('per class results:')[1:]:
        table = {}
        for line in part.splitlines()[1:]:
            match = _TABLE_ROW.match(line)
            if match:
                table[match[1]] = float(match[2])
            elif table and not line.startswith(('+', '|')):
                break
        tables.append(table)
    return tables


def _end_of_log(work_dir: Path) -> str:
    path = work_dir / OUTPUT
    if not path.exists():
        return ''
    with open(path, 'rb') as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 20000))
        return file.read().decode(errors='replace')


def progress(work_dir: Path) -> tuple[int, str]:
    """Iteration that a run has reported last, and the time left by its own account."""
    found = _ITERATION.findall(_end_of_log(work_dir))
    return (int(found[-1][0]), found[-1][2]) if found else (0, '?')


def last_words(work_dir: Path) -> str:
    """The last line of a run's output."""
    return _end_of_log(work_dir).rstrip().rpartition('\n')[2]


def harvest(work_dir: Path, iterations: int) -> dict[str, Any] | None:
    """What a finished run has to show; None of one that is not finished.

    Raises:
        ValueError: The log's IoU by class does not belong to the last validation.
    """
    curve = validations(work_dir)
    if iterations not in curve:
        return None
    networks = ['teacher/', 'student/'] if 'teacher/mIoU' in curve[iterations] else ['']
    tables = class_tables((work_dir / OUTPUT).read_text(errors='replace'))[-len(networks):]
    scores = []
    for network, table in zip(networks, tables, strict=True):
        score = {name: round(curve[iterations][network + name], 2)
                 for name in ('mIoU', 'aAcc', 'mAcc')}
        known = [iou for iou in table.values() if iou == iou]
        if not known or abs(sum(known) / len(known) - score['mIoU']) > 0.02:
            raise ValueError(f'{work_dir / OUTPUT}: the last IoU by class do not have the mean of '
                             f'the last validation, {score["mIoU"]}.')
        score['IoU'] = {name: None if iou != iou else iou for name, iou in table.items()}
        scores.append(score)
    result = dict(
        scores[0], iteration=iterations, network=networks[0].strip('/') or 'model',
        curve=[[step, *(round(entry[network + 'mIoU'], 2) for network in networks)]
               for step, entry in curve.items() if step <= iterations])
    if len(scores) > 1:
        result['student'] = scores[1]
    history = _history(work_dir)
    if history.pop('ends') != history['starts']:  # who was to take the time was killed
        history.update(seconds=None, cpu_seconds=None)
    return dict(result, **history)


def _history(work_dir: Path) -> dict[str, Any]:
    path = work_dir / HISTORY
    if path.exists():
        return json.loads(path.read_text())
    return dict(seconds=0.0, cpu_seconds=0.0, starts=0, ends=0, commits=[])


def note_start(work_dir: Path, commit: str | None) -> None:
    """Note that a process of a run starts, and of which code."""
    history = _history(work_dir)
    history['starts'] += 1
    if commit not in history['commits']:
        history['commits'].append(commit)
    write(work_dir / HISTORY, json.dumps(history))


def note_end(work_dir: Path, seconds: float, cpu_seconds: float) -> None:
    """Note that a process of a run has ended, and add its time to that of earlier ones."""
    history = _history(work_dir)
    history['ends'] += 1
    history['seconds'] = round(history['seconds'] + seconds, 1)
    history['cpu_seconds'] = round(history['cpu_seconds'] + cpu_seconds, 1)
    write(work_dir / HISTORY, json.dumps(history))


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding='utf-8')


def to_line(result: dict[str, Any]) -> str:
    """A result as a line of JSON."""
    return json.dumps(result, ensure_ascii=False) + '\n'


def append(path: Path, result: dict[str, Any]) -> None:
    """Add a line and flush it to disk; after a crash it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = to_line(result)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b'\n':
            line = '\n' + line  # a line was cut off: the next one must not be lost with it
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """All lines but those that were cut off; none, if there is no such file."""
    if not path.exists():
        return []
    results = []
    for line in path.read_text(encoding='utf-8').split('\n')[:-1]:
        try:
            results.append(json.loads(line))
        except ValueError:
            continue
    return results
