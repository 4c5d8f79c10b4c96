"""What broke the property, made small and kept in the corpus."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz import harness


class Judge:
    """A guarded process that tells the kind of failure of one input after another."""

    def __init__(self, name: str) -> None:
        self.name, self.root, self.starts = name, harness.scratch(), 0
        self.process: Any = None
        self.pipe: Any = None

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def kind(self, data: bytes) -> str:
        """What breaks on `data`, or nothing; the process is new after a crash or a hang."""
        if self.process is None:
            self._start()
        limit = harness.subject(self.name).SECONDS
        try:
            self.pipe.send_bytes(data)
            if self.pipe.poll(limit):
                return str(self.pipe.recv())
            kind = f"hang of {limit:.0f} s"
        except (EOFError, OSError):
            self.process.join()
            kind = f"crash {self.process.exitcode}"
        self._stop()
        return kind

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, child = context.Pipe()
        folder = self.root / f"{self.starts}"
        self.starts += 1
        arguments = (self.name, folder, child)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        child.close()
        self.pipe.recv()  # it has imported what it needs

    def _stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def _serve(name: str, folder: Path, pipe: Connection) -> None:
    of = harness.subject(name)
    harness.attempt(of, harness.case(of, 0, 0), harness.fresh(folder / "warm"))
    harness.prepare(of, folder)
    pipe.send(None)
    while True:
        pipe.send(harness.attempt(of, pipe.recv_bytes(), folder / "cases")[1])


def minimize(data: bytes, fails: Callable[[bytes], bool], seconds: float = 60) -> bytes:
    """A shorter input that still fails: blocks of it are left out, larger ones first."""
    size = max(1, len(data) // 2)
    end = time.monotonic() + seconds
    while size and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            shorter = data[:at] + data[at + size :]
            if fails(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def pruned(
    data: bytes,
    fails: Callable[[bytes], bool],
    shorter: Callable[[bytes], Iterator[bytes]],
    seconds: float = 120,
) -> bytes:
    """The same where leaving out bytes breaks the form: one part of it is left out at a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        candidates = (s for s in shorter(data) if time.monotonic() < end and fails(s))
        found = next(candidates, None)
        if found is None:
            break
        data = found
    return data


def keep(name: str, failure: harness.Failure) -> Path:
    """Adds a failure to the corpus, minimized where it repeats; returns its file."""
    data = failure.data
    with Judge(name) as judge:

        def fails(smaller: bytes) -> bool:
            return judge.kind(smaller) == failure.kind

        if fails(data):
            parts = getattr(harness.subject(name), "shorter", None)
            data = pruned(data, fails, parts) if parts else minimize(data, fails)
    folder = harness.CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}{harness.subject(name).SUFFIX}"
    path.write_bytes(data)
    return path
