"""Content-addressed results of stages, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.errors import StorageError

_SCRATCH = ".part"
_PROBE_BYTES = 1 << 20  # less free space than this fails at once


@dataclass(frozen=True)
class Store:
    """A directory of finished results, each under the digest of everything it was made from.

    Two processes that want the same result at once make it once: the second waits for the first.

    Attributes:
        fresh: make every result again, once, and replace what is there.
    """

    root: Path
    fresh: bool = False
    _made: set[str] = field(default_factory=set, repr=False, compare=False)

    def get(self, key: str, suffix: str, produce: Callable[[Path], None]) -> Path:
        """The file under `key`; made by `produce(temporary path)` where it is not there yet.

        Args:
            key: a digest from `key`.
            suffix: file name ending, with its dot.
        Raises:
            StorageError: the directory cannot be written.
        """
        path = self.root / key[:2] / f"{key}{suffix}"
        stale = self.fresh and key not in self._made
        if path.exists() and not stale:
            return path
        with storage(path), _exclusive(path.with_suffix(".lock")):
            if stale or not path.exists():
                with atomic(path) as temporary:
                    produce(temporary)
                self._made.add(key)
        return path


def key(stage: str, *parts: Any) -> str:
    """sha256 of a stage's name, this program's source, and all else that its result depends on.

    Args:
        parts: bytes, or values that JSON can hold (dicts are ordered by key).
    """
    digest = hashlib.sha256(f"{stage} {source_digest()}".encode())
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@functools.cache
def source_digest() -> str:
    """sha256 of our own source: a result of other code is another result."""
    digest = hashlib.sha256()
    here = Path(__file__).parents[1]
    for package in ("calib", "compiler"):
        for path in sorted((here / package).rglob("*.py")):
            digest.update(path.relative_to(here).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` on success and vanishes otherwise.

    Works for files and for directories; an existing directory of that name is replaced.

    Raises:
        StorageError: the folder is read-only, full, or not a folder.
    """
    with storage(path), _scratch(path) as scratch:
        temporary = scratch / path.name
        yield temporary
        if path.is_dir() and not path.is_symlink():
            path.rename(scratch / "replaced")
        temporary.replace(path)


@contextlib.contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, locked while it is in use, and gone afterwards.

    What processes that were killed left there is removed: their locks went with them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*{_SCRATCH}"):
        with _held(left, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        prefix = f".{path.name}."
        scratch = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SCRATCH, dir=path.parent))
        with _held(scratch, fcntl.LOCK_EX) as held:
            if not held:  # another process took it for a left one, in the instant before the lock
                continue
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return


@contextlib.contextmanager
def _held(folder: Path, how: int) -> Iterator[bool]:
    """Whether `folder` is there and locked by us, until the end of the block."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
            return
        yield folder.exists()
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic(path) as temporary, storage(path):
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """JSON as all our files hold it, indented; the same value gives the same text."""
    return json.dumps(value, indent=2) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; the same value gives the same bytes."""
    write_text(path, json_text(value))


def require_writable(folder: Path) -> None:
    """Raises StorageError now, not at the end of a build, where `folder` cannot be written."""
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns operating system errors about `path` into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot be written: {os.strerror(error.errno) if error.errno else error}",
            where=str(path),
            fix="free some space, correct the permissions, or choose another --out",
        ) from error


@contextlib.contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Holds an advisory lock; the system releases it however the process ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
