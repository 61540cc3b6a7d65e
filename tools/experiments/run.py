# Licensed under the Apache License, Version 2.0.
"""Train a protocol's runs, and write its tables.

A run that was interrupted goes on where it stopped, and a finished one is not repeated, unless its
config has changed since. Results are lines in OUT/results.jsonl; the tables are OUT/table.md.
"""

import argparse
import hashlib
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from pprint import pformat
from typing import Any

import results
import tables
import torch
from protocol import (
    ROOT,
    Places,
    Protocol,
    Run,
    config_path,
    data_root_of,
    digest,
    load_protocol,
    protocol_names,
    resolve,
    runs_of,
)
from trainings import Training, Trainings

from mmseg_reco.engine.command_line import positive_int
from mmseg_reco.engine.hooks.preemption_hook import EXIT_PREEMPTED


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: python tools/experiments/run.py camvid-cpu --jobs 2 '
        "--only 'semi-20/(supervised|classmix)/'")
    parser.add_argument('protocol', help=f'{", ".join(protocol_names())}; or a file that defines '
                        'PROTOCOL')
    parser.add_argument('--only', metavar='PATTERN', default='',
                        help='only runs whose name, setting/row/seed, this expression is found in')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--jobs', type=positive_int, default=1, help='runs at once (default: 1)')
    parser.add_argument('--threads', type=positive_int, default=1, help='of each run (default: 1)')
    parser.add_argument('--weights', help='weights of the backbone: a file, or an address that '
                        "mmengine knows (default: the protocol's)")
    parser.add_argument('--data-root', help="folder of the data (default: the configs')")
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--out', type=Path, help='default: work_dirs/experiments/PROTOCOL')
    parser.add_argument('--dry-run', action='store_true', help='say what would be done')
    parser.add_argument('--table', action='store_true', help='only write the tables')
    parser.add_argument('--publish', type=Path, metavar='FOLDER', help='only copy the results to '
                        'FOLDER, and the tables into FOLDER.md; needs the --weights, --amp and '
                        '--seeds of the runs')
    return parser.parse_args(arguments)


class Experiments:
    """The runs of a protocol on this machine, what they are made of and what is known of them."""

    def __init__(self, protocol: Protocol, args: argparse.Namespace) -> None:
        self.protocol, self.args = protocol, args
        self.out = (args.out or Path('work_dirs/experiments') / protocol.name).resolve()
        self.lines = self.out / 'results.jsonl'
        rule = re.sub(r'\W+', '-', ' '.join(protocol.split_rule)).strip('-') or 'any'
        self.splits = self.out / 'splits' / rule
        self.places = Places(str(self.splits), args.data_root, args.weights)
        self.weights = args.weights
        if args.weights and '://' not in args.weights:
            path = Path(args.weights)
            if not path.is_file():
                raise FileNotFoundError(f'There is no file {path}: give --weights another.')
            self.weights = 'sha256:' + hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            self.places = Places(str(self.splits), args.data_root, str(path.resolve()))
        self.runs = {run.name: run for run in runs_of(protocol, args.seeds)}
        self.digests: dict[str, str] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        for name, run in self.runs.items():
            cfg, changes = resolve(protocol, run, Places('splits', None, self.weights))
            self.digests[name] = digest(cfg, protocol.split_rule, args.amp)
            self.changes[name] = changes

    def work_dir(self, name: str) -> Path:
        """Folder of a run with its present config."""
        return self.out / 'runs' / f'{name}-{self.digests[name]}'

    def known(self) -> dict[str, dict[str, Any]]:
        """Results that belong to the present configs, by run; of several the latest."""
        found = {}
        for line in results.read(self.lines):
            name = Run(line['setting'], line['row'], line['seed']).name
            if self.digests.get(name) == line['digest']:
                found[name] = line
        return found

    def stale(self) -> int:
        """Number of results that belong to other configs of these runs."""
        lines = [(Run(line['setting'], line['row'], line['seed']).name, line['digest'])
                 for line in results.read(self.lines)]
        return sum(name in self.runs and self.digests[name] != of for name, of in lines)

    def training(self, name: str) -> Training:
        """What there is to do for a run."""
        cfg, _ = resolve(self.protocol, self.runs[name], self.places)
        checkpoint = cfg.setdefault('default_hooks', {}).setdefault(
            'checkpoint', dict(type='SafeCheckpointHook', by_epoch=False))
        checkpoint.update(
            interval=self.protocol.val_interval, max_keep_ckpts=1, save_best=None)
        text = ''.join(f'{key} = {pformat(value, width=100, sort_dicts=False)}\n'
                       for key, value in cfg.to_dict().items())
        return Training(name, self.work_dir(name), text, self.protocol.iterations)

    def make_splits(self, names: list[str]) -> None:
        """Choose the labelled images of all seeds, for the numbers of labels that lack them.

        Raises:
            ValueError: The choice is impossible.
            FileNotFoundError: There are no data.
        """
        protocol, missing = self.protocol, set()
        for name in names:
            run = self.runs[name]
            labels = protocol.settings[run.setting].labels
            if labels and not (self.splits / f'{labels}/{run.seed}/unlabeled.txt').exists():
                missing.add(labels)
        if not missing:
            return
        data = Path(self.args.data_root or data_root_of(protocol))
        if not (data / protocol.mask_dir).is_dir():
            raise FileNotFoundError(f'There is no folder {data / protocol.mask_dir}: give the '
                                    "data's with --data-root; docs/datasets.md prepares them.")
        print(f'Choosing labelled images: {", ".join(map(str, sorted(missing)))} of {data}')
        made = subprocess.run(
            [sys.executable, ROOT / 'tools/dataset_converters/make_splits.py',
             data / protocol.mask_dir, '--list', data / protocol.train_list, '--out', self.splits,
             '--num-labeled', *map(str, sorted(missing)), '--seeds', *map(str, self.args.seeds),
             *protocol.split_rule], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        if made.returncode:
            raise ValueError('The labelled images cannot be chosen. ' + made.stderr.strip()[-2000:])

    def finish(self, training: Training) -> None:
        """Add the result of a run to the others, and write the tables.

        Raises:
            ValueError: The run has none.
        """
        found = results.harvest(training.work_dir, training.iterations)
        if found is None:
            raise ValueError('it ended without its last validation')
        run = self.runs[training.name]
        results.append(self.lines, dict(
            protocol=self.protocol.name, setting=run.setting, row=run.row, seed=run.seed, **found,
            digest=self.digests[training.name], config=config_path(self.protocol, run),
            overrides=self.changes[training.name], amp=self.args.amp, weights=self.weights,
            torch=version('torch'), threads=self.args.threads, machine=machine(),
            finished=datetime.now(timezone.utc).isoformat(timespec='seconds')))
        self.write_tables()

    def wanted(self, training: Training) -> bool:
        """Whether a run has to be trained; one that only lacks its line gets it."""
        if training.name in self.known():
            return False
        if results.harvest(training.work_dir, training.iterations) is None:
            return True
        self.finish(training)
        return False

    def tables(self) -> str:
        """The tables of what is known."""
        return tables.report(self.protocol, {
            (line['setting'], line['row'], line['seed']): line for line in self.known().values()})

    def write_tables(self) -> None:
        """Write OUT/table.md."""
        results.write(self.out / 'table.md', self.tables())

    def publish(self, folder: Path) -> None:
        """Copy the results that count to FOLDER, and the tables between two marks of FOLDER.md.

        Raises:
            ValueError: No result counts, one that is published has no successor among them, or the
                page has lost a mark.
        """
        file = folder / f'{self.protocol.name}.jsonl'
        page = folder.with_name(f'{folder.name}.md')
        lines = list(self.known().values())
        if not lines:
            raise ValueError(f'{self.lines} holds no result of these configs and options: give '
                             f'those that the runs had. {options_of(results.read(self.lines))}')
        keys = 'setting', 'row', 'seed', 'weights', 'amp'
        new = [[line[key] for key in keys] for line in lines]
        lost = [line for line in results.read(file) if [line[key] for key in keys] not in new]
        if lost:
            raise ValueError(
                f'{len(lost)} results in {file} would be lost, as these options have none in their '
                f'place: give the options of all, or remove what is outdated. {options_of(lost)}')
        begin, end = (
            f'<!-- {word} of {self.protocol.name}, written by tools/experiments/run.py -->'
            for word in ('begin', 'end'))
        text = page.read_text(encoding='utf-8') if page.exists() else '# Results\n'
        if begin not in text and end not in text:
            text += f'\n{begin}\n{end}\n'
        head, begun, rest = text.partition(begin)
        _, ended, tail = rest.partition(end)
        if not (begun and ended):
            raise ValueError(f'{page} needs both lines, in this order: {begin} and {end}. What is '
                             'between them is replaced.')
        results.write(file, ''.join(map(results.to_line, lines)))
        tables_of_runs = (f'{self.tables()}\nEvery run: [{file.name}]({folder.name}/{file.name}), '
                          'with its curve of validation and what its config changes.\n')
        results.write(page, f'{head}{begin}\n{tables_of_runs}{end}{tail}')
        print(f'{len(lines)} results: {file}; tables: {page}')


def options_of(lines: list[dict[str, Any]]) -> str:
    """Which options results were made with, in words."""
    if not lines:
        return 'It holds none at all.'
    weights, amp, seeds = (sorted({str(line[key]) for line in lines})
                           for key in ('weights', 'amp', 'seed'))
    return (f'They have --weights: {", ".join(weights)}; --amp: {", ".join(amp)}; '
            f'--seeds: {" ".join(seeds)}.')


def machine() -> str:
    """What trains here."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path('/proc/cpuinfo')
    names = re.findall(r'^model name\s*: (.+)$', info.read_text(), re.M) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def show_plan(experiments: Experiments, names: list[str], known: dict) -> None:
    """Print what would be done: a line for each run, and the changes of its config."""
    counts = {'done': 0, 'to do': 0}
    for name in names:
        step = results.progress(experiments.work_dir(name))[0]
        counts['done' if name in known else 'to do'] += 1
        state = 'done' if name in known else f'begun, {step}' if step else 'to do'
        changes = ' '.join(f'{key}={value}' for key, value in experiments.changes[name].items())
        print(f'{state:12} {name}  {config_path(experiments.protocol, experiments.runs[name])}\n'
              f'             {changes}')
    print(f'{len(names)} runs: {counts["done"]} done, {counts["to do"]} to do; '
          f'{experiments.stale()} results are of other configs and do not count.')


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        experiments = Experiments(load_protocol(args.protocol), args)
        names = [name for name in experiments.runs if re.search(args.only, name)]
        if not names:
            raise ValueError(f"No run is called like '{args.only}'; --dry-run lists the names.")
        known = experiments.known()
        if args.dry_run:
            show_plan(experiments, names, known)
            return 0
        if args.publish is not None:
            experiments.publish(args.publish)
            return 0
        pending = [name for name in names if name not in known]
        if not args.table:
            experiments.make_splits(pending)
    except (OSError, ValueError, re.error) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2

    if args.table:
        experiments.write_tables()
        print(experiments.out / 'table.md')
        return 0
    trainings = Trainings(
        [experiments.training(name) for name in pending], args.jobs, args.threads,
        ['--amp'] if args.amp else [], experiments.wanted, experiments.finish,
        before=len(names) - len(pending))
    trainings.run()
    experiments.write_tables()
    print(f'Results: {experiments.lines}\nTables: {experiments.out / "table.md"}')
    for failure in trainings.failures:
        print(f'FAILED {failure}', file=sys.stderr)
    if trainings.signals:
        print('Stopped; the same command goes on.')
        return EXIT_PREEMPTED
    return 1 if trainings.failures else 0


if __name__ == '__main__':
    sys.exit(main())
