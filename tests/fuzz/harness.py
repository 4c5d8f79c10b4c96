"""Runs many cases of one subject over worker processes, and keeps what breaks the property.

A case is made from its seed and number alone, so that a worker that crashed or hung names its
case by the number that it had begun.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from calib.errors import WorkbenchError
from tests.fuzz.guard import Guard, Violation, require_text

CORPUS = Path(__file__).parent / "corpus"
SUBJECTS = ("spec", "model", "build", "image")
_POLL_S = 0.2
_START_S = 60.0
_PATIENCE = 10  # times the limit that a case may take on a busy machine
_SECRET = "secret.bin"


class Subject(Protocol):
    """What is fuzzed: one module of this package."""

    NAME: str
    SUFFIX: str
    MEMORY_BYTES: int
    SECONDS: float

    def make(self, rng: random.Random) -> bytes:
        """One case."""

    def judge(self, data: bytes, folder: Path) -> str:
        """What became of it, in a word; raises what must not be raised."""


def subject(name: str) -> Subject:
    """The module of a subject, imported when it is wanted: they load heavy packages."""
    module: Any = importlib.import_module(f"tests.fuzz.{name}s")
    return module  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Failure:
    """One case that broke the property.

    Attributes:
        kind: what distinguishes it from others: exception and innermost place, or crash or hang.
    """

    index: int
    kind: str
    detail: str
    data: bytes


@dataclass
class Tally:
    """What became of the cases."""

    verdicts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)
    broken: int = 0

    @property
    def cases(self) -> int:
        """All cases so far."""
        return sum(self.verdicts.values()) + self.broken

    def add(self, failure: Failure) -> None:
        """Counts a failure, and keeps the smallest of its kind."""
        self.broken += 1
        known = self.failures.get(failure.kind)
        if known is None or len(failure.data) < len(known.data):
            self.failures[failure.kind] = failure


def case(of: Subject, seed: int, index: int) -> bytes:
    """Case number `index` of a run."""
    return of.make(random.Random(f"{of.NAME} {seed} {index}"))


def attempt(of: Subject, data: bytes, folder: Path) -> tuple[str, str, str]:
    """(verdict, kind of failure, its traceback); one of the first two is empty."""
    try:
        return of.judge(data, folder), "", ""
    except WorkbenchError as error:
        try:
            return require_text(error), "", ""
        except Violation as violation:
            return "", *_broken(violation)
    except (Exception, Violation) as error:
        return "", *_broken(error)


def _broken(error: BaseException) -> tuple[str, str]:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/tests/fuzz/guard" not in f.filename]
    last = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""
    what = str(error).partition(":")[0][:60] if isinstance(error, Violation) else ""
    return f"{type(error).__name__} {last} {what}".strip(), "".join(
        traceback.format_exception(error)
    )


def scratch() -> Path:
    """A new folder, in memory where that is possible: millions of cases are written."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="vacc-fuzz-", dir=memory if memory.is_dir() else None))


def run(
    name: str,
    count: int,
    *,
    seed: int = 0,
    start: int = 0,
    jobs: int = 1,
    seconds: float = float("inf"),
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Runs cases `start` to `start + count`, or for so many seconds, on `jobs` processes."""
    tally, root = Tally(), scratch()
    subject(name)  # imported once, before the workers are forked
    workers = [_Worker(name, seed, start + j, jobs, root) for j in range(jobs)]
    end, told = time.monotonic() + seconds, time.monotonic()
    try:
        while any(not w.done for w in workers):
            if time.monotonic() > end:
                break
            for worker in workers:
                worker.poll(tally, start + count)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                say(f"{tally.cases} cases, {tally.broken} broken: {dict(tally.verdicts)}")
            time.sleep(_POLL_S)
        for worker in workers:
            worker.poll(tally, start + count)
    finally:
        for worker in workers:
            worker.stop()
        shutil.rmtree(root, ignore_errors=True)
    return tally


class _Worker:
    """One process and the case that it works on; started again after each crash or hang."""

    def __init__(self, name: str, seed: int, first: int, step: int, root: Path) -> None:
        self.name, self.seed, self.step, self.root = name, seed, step, root
        self.next, self.done, self.starts = first, False, 0
        self.process: Any = None
        self.pipe: Connection | None = None

    def poll(self, tally: Tally, end: int) -> None:
        """Takes what the process has told, and starts it where it is not running."""
        if self.done:
            return
        if self.process is None:
            self._start(end)
        assert self.pipe is not None
        dead = not self.process.is_alive()
        try:
            while self.pipe.poll():
                self._take(self.pipe.recv(), tally)
        except EOFError:
            pass
        if self.done:
            self.process.join()
            return
        limit = subject(self.name).SECONDS if self.shared[0] >= 0 else _START_S
        stuck = self._is_stuck(limit)
        if dead or stuck:
            self.stop()
            index = int(self.shared[0])
            if index < 0:
                raise RuntimeError(f"the worker cannot start: exit {self.process.exitcode}")
            kind = f"hang of {limit:.0f} s" if stuck else f"crash {self.process.exitcode}"
            data = case(subject(self.name), self.seed, index)
            tally.add(Failure(index, kind, kind, data))
            tally.verdicts["unreported"] += max(0, index - self.told) // self.step
            self.next, self.process = index + self.step, None

    def _is_stuck(self, limit: float) -> bool:
        """Whether its case takes too long: of its own time, since the machine may be busy.

        `shared` holds the number of the case (-1: importing), and clock and own time at its start.
        """
        index, began, used = self.shared
        waited = time.monotonic() - began
        if waited < limit or self.process is None:
            return False
        now, sleeps = _used_s(self.process.pid)
        blocked = sleeps and waited > _PATIENCE * limit
        return self.shared[0] == index and (now - used > limit or blocked)

    def _take(self, message: Any, tally: Tally) -> None:
        if message is None:
            self.done = True
        elif isinstance(message, Failure):
            tally.add(message)
        else:
            counts, self.told = message
            tally.verdicts.update(counts)

    def _start(self, end: int) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, child = context.Pipe(duplex=False)
        self.shared = context.Array("d", [-1.0, time.monotonic(), 0.0], lock=False)
        span, self.told = range(self.next, end, self.step), self.next
        folder = self.root / f"{self.next}-{self.starts}"
        self.starts += 1
        arguments = (self.name, self.seed, span, folder, child, self.shared)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        child.close()

    def stop(self) -> None:
        """Ends the process."""
        if self.process is not None and self.process.is_alive():
            self.process.kill()
            self.process.join()


def _used_s(pid: int) -> tuple[float, bool]:
    """Processor time of a process so far, and whether it sleeps rather than waits for a turn."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, False
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), fields[0] != "R"


def prepare(of: Subject, folder: Path) -> Guard:
    """Sets this process up for cases in `folder`: limits, audit, a secret and a link to it."""
    (folder / "cases").mkdir(parents=True)
    secret = folder / _SECRET
    secret.write_bytes(b"\0" * 4096)
    (folder / "cases" / "link.bin").symlink_to(secret)
    (folder / "cases" / "tmp").mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "cases" / "tmp")
    os.chdir(folder / "cases")
    with Path(os.devnull).open("w") as null:  # what C++ code has to say
        os.dup2(null.fileno(), 2)
    sys.setrecursionlimit(1000)
    return Guard(folder / "cases", secret, memory_bytes=of.MEMORY_BYTES, programs=(sys.executable,))


def _work(name: str, seed: int, span: range, folder: Path, pipe: Connection, shared: Any) -> None:
    of = subject(name)
    attempt(of, case(of, seed, 0), fresh(folder / "warm"))  # lazy imports, before the guard
    prepare(of, folder)
    gc.freeze()  # what is imported stays: collections need not look at it
    here, counts = folder / "cases", Counter[str]()
    told = time.monotonic()
    for index in span:
        shared[1], shared[2], shared[0] = time.monotonic(), time.process_time(), index
        data = case(of, seed, index)
        verdict, kind, detail = attempt(of, data, here)
        if kind:
            pipe.send(Failure(index, kind, detail, data))
        else:
            counts[verdict] += 1
        if time.monotonic() - told > 1 or kind:
            pipe.send((counts, index + span.step))
            counts, told = Counter(), time.monotonic()
    pipe.send((counts, span.stop))
    pipe.send(None)


def fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
