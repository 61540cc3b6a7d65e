# Licensed under the Apache License, Version 2.0.
"""Tables in Markdown out of the results of a protocol."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from protocol import Protocol, row_of

#: Result of every run that has one, by (setting, row, seed).
Results = dict[tuple[str, str, int], dict[str, Any]]


def mean_and_deviation(values: Sequence[float], sign: str = '') -> str:
    """``48.5 ± 1.2 (3)``: mean, sample standard deviation, number; a dash for no values."""
    if not values:
        return '–'
    spread = f' ± {stdev(values):.1f}' if len(values) > 1 else ''
    return f'{fmean(values):{sign}.1f}{spread} ({len(values)})'


def over_seeds(results: Results, setting: str, row: str,
               value: Callable[[dict], float | None] = lambda result: result['mIoU']
               ) -> dict[int, float]:
    """A value of the runs of a cell, by seed; runs without it are left out."""
    found = {seed: value(result) for (at, name, seed), result in sorted(results.items())
             if (at, name) == (setting, row)}
    return {seed: number for seed, number in found.items() if number is not None}


def differences(results: Results, setting: str, row: str, base: str) -> list[float]:
    """mIoU of a row minus that of another, for every seed that both have."""
    own, other = (over_seeds(results, setting, name) for name in (row, base))
    return [own[seed] - other[seed] for seed in own if seed in other]


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a table, of which only rows with a value in them are left."""
    rows = [list(row) for row in rows]
    rows = [row for row in rows if any(cell != '–' for cell in row[1:])]
    if not rows:
        return []
    header = list(header)
    return ['| ' + ' | '.join(line) + ' |' for line in (header, ['---'] * len(header), *rows)]


def report(protocol: Protocol, results: Results) -> str:
    """All tables.

    Args:
        protocol: What there is to fill in.
        results: What is known.
    """
    settings = [name for name in protocol.settings
                if any(at == name and row in protocol.rows for at, row, _ in results)]
    titles = [protocol.settings[name].title for name in settings]
    parts: list[list[str]] = [[f'## {protocol.title}'], [
        'mIoU in percent of the evaluated network (the teacher, where there is one) on the '
        f'validation set, after {protocol.iterations:,} iterations: mean ± sample standard '
        'deviation over seeds, which choose the labels too, and in parentheses the number of '
        'seeds.']]

    def table(heading: str, lines: list[str]) -> None:
        if lines:
            parts.extend([[f'### {heading}'], lines])

    table('mIoU', markdown(['', *titles], (
        [row.title, *(mean_and_deviation(list(over_seeds(results, at, name).values()))
                      for at in settings)] for name, row in protocol.rows.items())))
    for base in protocol.baselines:
        table(f'Difference to {protocol.rows[base].title}, seed by seed', markdown(['', *titles], (
            [row.title, *(mean_and_deviation(differences(results, at, name, base), '+')
                          for at in settings)]
            for name, row in protocol.rows.items() if name != base)))
    table('mIoU of the student', markdown(['', *titles], (
        [row.title, *(mean_and_deviation(list(over_seeds(
            results, at, name, lambda result: result.get('student', {}).get('mIoU')).values()))
            for at in settings)] for name, row in protocol.rows.items())))
    if protocol.ablation is not None:
        at, base = protocol.ablation.setting, protocol.ablation.base
        scores = {name: over_seeds(results, at, name) for name in (base, *protocol.ablation.rows)}
        # a mean over other seeds than theirs would not compare with them
        seeds = {seed for name in protocol.ablation.rows for seed in scores[name]}
        scores[base] = {seed: score for seed, score in scores[base].items() if seed in seeds}
        lines = markdown(
            ['', 'mIoU', f'Difference to {protocol.rows[base].title}, seed by seed'],
            ([row_of(protocol, name).title, mean_and_deviation(list(found.values())),
              '' if name == base
              else mean_and_deviation(differences(results, at, name, base), '+')]
             for name, found in scores.items()))
        if len(lines) > 3:  # more than the base
            table(f'Ablation, {protocol.settings[at].title}', lines)
    for at, title in zip(settings, titles, strict=True):
        table(f'IoU by class, {title}, mean over seeds', _class_table(protocol, results, at))
    table('Time', markdown(
        ['', 'Minutes of a run', 'of the CPU', 'Runs'],
        ([row.title, *_times(results, name)] for name, row in protocol.rows.items())))
    parts.append([_origin(list(results.values()))])
    return '\n\n'.join('\n'.join(lines) for lines in parts) + '\n'


def _class_table(protocol: Protocol, results: Results, setting: str) -> list[str]:
    classes = next(result['IoU'] for (at, _, _), result in results.items() if at == setting)

    def mean_iou(row: str, name: str) -> str:
        values = over_seeds(results, setting, row, lambda result: result['IoU'].get(name))
        return f'{fmean(values.values()):.1f}' if values else '–'

    return markdown(['', *classes], (
        [row.title, *(mean_iou(key, name) for name in classes)]
        for key, row in protocol.rows.items()))


def _times(results: Results, row: str) -> list[str]:
    runs = [result for (_, name, _), result in results.items()
            if name == row and result['seconds'] is not None]
    if not runs:
        return ['–'] * 3
    return [f'{fmean(run[key] for run in runs) / 60:.1f}' for key in ('seconds', 'cpu_seconds')] + [
        str(len(runs))]


def _origin(results: list[dict[str, Any]]) -> str:
    """On what the results were made, in a line."""
    if not results:
        return 'No results yet.'

    def all_of(key: str) -> str:
        return ', '.join(sorted({str(result[key]) for result in results}))

    commits = {str(name) for result in results for name in result['commits']}
    return (f'{len(results)} runs. Machine: {all_of("machine")}; threads of a run: '
            f'{all_of("threads")}; torch {all_of("torch")}; commits: {", ".join(sorted(commits))}.')
