"""What one process of a stage is asked to do, and running such processes on this machine."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import datetime
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from swiftlike.args.environment import PREFIX
from swiftlike.core.devices import VISIBLE, own_devices, visible_devices
from swiftlike.core.errors import UserError
from swiftlike.core.files import append_jsonl
from swiftlike.core.parent import PARENT
from swiftlike.core.secrets import apart, scrub
from swiftlike.pipelines.iterate.machine import Machine
from swiftlike.pipelines.iterate.recipe import PROGRAM, Step

Say = Callable[[str], None]
Line = tuple[int | None, str]  # of which shard
_LAST = 15  # lines of a failed stage that are shown
_DRAIN = 2.0  # seconds in which what an ended process left behind may still speak
_GRACE = 30.0  # seconds that a stopped process has to end


@dc.dataclass(frozen=True, kw_only=True)
class Job:
    """One process. `env` is added to the environment; `shard` says which of several it is."""

    words: tuple[str, ...]
    env: Mapping[str, str] = dc.field(default_factory=dict)
    shard: int | None = None


def command_line(kind: str, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What is executed, and what is added to its environment: keys and tokens do not stand on command lines of ours."""
    if kind == PROGRAM:
        return list(words), {}
    kept, hidden = apart(words)
    return [sys.executable, "-m", "swiftlike", *kept], {f"{PREFIX}{flag.upper()}": key for flag, key in hidden.items()}


def jobs_of(step: Step, words: Sequence[str], env: Mapping[str, str], shards: int, machine: Machine) -> list[Job]:
    """The processes of a stage on this machine; its pieces are numbered over all machines, and each has its cards."""
    if shards == 1 or not step.stage.sharded:
        return [Job(words=tuple(words), env=env)]
    cards = visible_devices(os.environ)
    jobs = []
    for k in range(shards):
        mine = ",".join(cards[i] for i in own_devices(len(cards), shards, k))
        number, count = machine.rank * shards + k, machine.count * shards
        split = (*words, "--shard", str(number), "--num_shards", str(count))
        jobs.append(Job(words=split, env={**env, **({VISIBLE: mine} if mine else {})}, shard=number))
    return jobs


class Log:
    """A stage's log: one JSON object per line with time, shard and text; the last lines are kept for error messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: dict[int | None, deque[str]] = {}
        self._lock = threading.Lock()

    def add(self, text: str, shard: int | None = None) -> None:
        """Write a line."""
        text = scrub(text)
        now = datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")
        with self._lock:
            self.last.setdefault(shard, deque(maxlen=_LAST)).append(text)
            append_jsonl(self.path, {"time": now, **({} if shard is None else {"shard": shard}), "text": text})


def failed(step: Step, log: Log, codes: Mapping[int | None, int]) -> UserError:
    """What a user is told when processes of a stage fail."""
    shards = [shard for shard in codes if shard is not None]
    where = f", shard {', '.join(map(str, shards))}" if shards else ""
    lines = [
        f"{'' if shard is None else f'shard {shard}: '}{line}" for shard in codes for line in log.last.get(shard, ())
    ]
    return UserError(
        f"stage {step.name}{where} failed (exit code {', '.join(str(code) for code in codes.values())})",
        problems=lines,
        hint=f"log: {log.path}; what was finished stays, and the same command goes on",
    )


def listen(lines: queue.SimpleQueue[Line], speaking: Callable[[], bool], log: Log, say: Say) -> None:
    """Log and show what processes say, as long as one of them may still speak and until all is read."""
    while speaking() or not lines.empty():
        try:
            shard, text = lines.get(timeout=0.5)
        except queue.Empty:
            say("")  # the clock goes on
            continue
        log.add(text, shard)
        say(text)


class Launch(Protocol):
    """What places processes."""

    def __call__(self, step: Step, jobs: Sequence[Job], log: Log, say: Say) -> None:
        """Run all jobs to their end. UserError when one fails: the others are let finish, what they do stays."""

    def close(self) -> None:
        """Let go of what it holds."""


class Local:
    """Runs jobs side by side on this machine. `lock` is a file descriptor that they inherit."""

    def __init__(self, lock: int) -> None:
        self.lock = lock

    def close(self) -> None:
        pass

    def __call__(self, step: Step, jobs: Sequence[Job], log: Log, say: Say) -> None:
        lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        running: dict[int | None, subprocess.Popen[str]] = {}
        readers: list[threading.Thread] = []
        try:
            for job in jobs:
                # by the main thread: a process ends with the thread that started it (`core.parent`)
                running[job.shard] = process = self._start(step, job)
                readers.append(threading.Thread(target=_read, args=(process.stdout, job.shard, lines), daemon=True))
                readers[-1].start()
            listen(lines, _Speaking(readers, list(running.values())), log, say)
            codes = {shard: process.wait() for shard, process in running.items()}
        except BaseException:
            _stop(list(running.values()))
            raise
        if wrong := {shard: code for shard, code in codes.items() if code != 0}:
            raise failed(step, log, wrong)

    def _start(self, step: Step, job: Job) -> subprocess.Popen[str]:
        words, hidden = command_line(step.kind, job.words)
        try:
            return subprocess.Popen(
                words,
                env={**os.environ, **job.env, **hidden, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C in a terminal reaches it once, through us
                pass_fds=(self.lock,),
            )
        except OSError as error:
            raise UserError(f"stage {step.name}: cannot start {words[0]}: {error.strerror}") from None


class _Speaking:
    """Whether processes, or for a moment what they left behind, may still say something."""

    def __init__(self, readers: Sequence[threading.Thread], processes: Sequence[subprocess.Popen[str]]) -> None:
        self.readers, self.processes = readers, processes
        self.ended: float | None = None

    def __call__(self) -> bool:
        if not any(reader.is_alive() for reader in self.readers):
            return False
        if any(process.poll() is None for process in self.processes):
            return True
        self.ended = self.ended or time.monotonic()
        return time.monotonic() - self.ended < _DRAIN


def _read(stream: IO[str] | None, shard: int | None, lines: queue.SimpleQueue[Line]) -> None:
    assert stream is not None
    for line in stream:  # a progress bar's line ends with a carriage return: text mode makes lines of them
        if line.strip():
            lines.put((shard, line.rstrip()))


def _stop(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End processes as Ctrl-C does, and after a while without asking."""
    for process in processes:
        if process.poll() is None:
            _signal(process, signal.SIGINT)
    end = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, number)
