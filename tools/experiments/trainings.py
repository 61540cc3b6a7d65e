# Licensed under the Apache License, Version 2.0.
"""Trainings in processes of their own: several at once, stopped in order, resumed exactly."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

import results
from protocol import ROOT

TRAIN = ROOT / 'tools' / 'train.py'
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 60  # where the output is no terminal


@dataclass
class Training:
    """One training: where, of what config, how long; and its process, while it runs."""

    name: str
    work_dir: Path
    config: str
    iterations: int
    process: subprocess.Popen | None = None
    lock: IO | None = None
    started: float = 0.0
    from_iteration: int = 0


@dataclass
class Trainings:
    """Runs trainings and reports how they go.

    A first SIGINT, SIGTERM or hang-up makes the trainings save a checkpoint and end; a second one
    kills them.

    Args:
        pending: What is to be done.
        jobs: Processes at once.
        threads: Of each.
        options: More arguments of ``tools/train.py``.
        wanted: Whether a training is still to be done, asked before it starts.
        finish: Called with each training that ended well; raises ValueError if it has no result.
        before: Runs finished before.
    """

    pending: list[Training]
    jobs: int
    threads: int
    options: Sequence[str]
    wanted: Callable[[Training], bool]
    finish: Callable[[Training], None]
    before: int = 0
    active: list[Training] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    signals: int = 0

    def run(self) -> None:
        """Do all; afterwards ``failures`` and ``signals`` tell how it went."""
        self._begin = self._shown = time.monotonic()
        self._total, self._done, self._trained = self.before + len(self.pending), self.before, 0
        previous = {number: signal.signal(number, self._note)
                    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                    if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        try:
            while self.active or (self.pending and not self.signals):
                while self.pending and len(self.active) < self.jobs and not self.signals:
                    self._start(self.pending.pop(0))
                for training in list(self.active):
                    self._look_after(training)
                self._show()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            for training in self.active:  # after an error of our own
                os.killpg(training.process.pid, signal.SIGKILL)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _start(self, training: Training) -> None:
        """Start a training, unless another process of this tool has it, or has done it."""
        training.work_dir.mkdir(parents=True, exist_ok=True)
        training.lock = open(training.work_dir / 'lock', 'w')
        try:
            fcntl.flock(training.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.say(f'{training.name}: left to the process that is at it')
            training.lock.close()
            return
        try:
            if not self.wanted(training):
                self._done += 1
                training.lock.close()
                return
        except ValueError as error:
            self._fail(training, error)
            training.lock.close()
            return
        config = training.work_dir / 'config.py'
        results.write(config, training.config)
        results.note_start(training.work_dir, commit())
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads),
                           MKL_NUM_THREADS=str(self.threads))
        environment['PYTHONPATH'] = os.pathsep.join(
            filter(None, [str(ROOT), environment.get('PYTHONPATH')]))
        training.from_iteration = results.progress(training.work_dir)[0]
        training.started = time.monotonic()
        with open(training.work_dir / results.OUTPUT, 'ab') as log:
            # A group of its own keeps Ctrl-C away; the lock is held as long as the process lives.
            training.process = subprocess.Popen(
                [sys.executable, TRAIN, config, '--work-dir', training.work_dir, '--resume',
                 *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True, pass_fds=[training.lock.fileno()])
        self.active.append(training)
        if self.signals:  # one came in the meantime
            os.kill(training.process.pid, signal.SIGTERM)

    def _look_after(self, training: Training) -> None:
        """Take note of a training's end."""
        pid, status, usage = os.wait4(training.process.pid, os.WNOHANG)
        if pid == 0:
            return
        code = training.process.returncode = os.waitstatus_to_exitcode(status)
        self.active.remove(training)
        self._trained += max(0, results.progress(training.work_dir)[0] - training.from_iteration)
        results.note_end(training.work_dir, time.monotonic() - training.started,
                         usage.ru_utime + usage.ru_stime)
        try:
            if code == 0:
                self.finish(training)
                self._done += 1
                self.say(f'{training.name}: done')
            elif not self.signals:
                raise ValueError(
                    f'killed by {signal.Signals(-code).name}' if code < 0 else
                    results.last_words(training.work_dir) or f'exit code {code}')
        except ValueError as error:
            self._fail(training, error)
        training.lock.close()

    def _fail(self, training: Training, error: ValueError) -> None:
        log = training.work_dir / results.OUTPUT
        self.failures.append(f'{training.name}: {error}; see {log}')
        self.say(f'{training.name}: failed ({error})')

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        for training in self.active:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                if self.signals == 1:
                    os.kill(training.process.pid, signal.SIGTERM)
                else:
                    os.killpg(training.process.pid, signal.SIGKILL)
        text = ('stopping, with a checkpoint of each training; once more kills them'
                if self.signals == 1 else 'killed')
        os.write(2, f'\n{signal.Signals(number).name}: {text}\n'.encode())  # print() may be at work

    def say(self, text: str) -> None:
        """Print a line that stays."""
        print(f'\r\033[K{text}' if sys.stdout.isatty() else text, flush=True)

    def _show(self) -> None:
        """The progress line: rewritten in a terminal, else repeated now and then."""
        terminal, now = sys.stdout.isatty(), time.monotonic()
        if not terminal and now - self._shown < SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        line, trained = f'{self._done}/{self._total} runs done', self._trained
        left = sum(training.iterations for training in self.pending)
        for training in self.active:
            step, eta = results.progress(training.work_dir)
            trained += max(0, step - training.from_iteration)
            left += training.iterations - step
            line += f'; {training.name} {step}/{training.iterations}, {eta} left'
        if trained:
            line += f'; all: {left * (now - self._begin) / trained / 3600:.1f} h left'
        if terminal:
            print(f'\r\033[K{line[:os.get_terminal_size().columns - 1]}', end='', flush=True)
        elif self.active:
            print(line, flush=True)


def commit() -> str | None:
    """The commit of the code and the configs, with ``-dirty`` where files differ from it."""
    def git(*words: str) -> str:
        return subprocess.run(['git', *words], cwd=ROOT, check=True, capture_output=True,
                              text=True).stdout.strip()

    try:
        changed = git('status', '--porcelain', '--', 'mmseg_reco', 'configs', 'tools/train.py')
        return git('rev-parse', '--short=12', 'HEAD') + ('-dirty' if changed else '')
    except (OSError, subprocess.CalledProcessError):
        return None
