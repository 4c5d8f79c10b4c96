"""What a fuzzed reader must not do, enforced: limits of the process and audit events."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

from calib.errors import WorkbenchError

_FORBIDDEN = frozenset(
    {
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "os.forkpty",
        "pickle.find_class",
        "socket.connect",
        "socket.bind",
        "urllib.Request",
        "code.__new__",
    }
)
_CHANGES = frozenset(
    {
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
        "os.symlink",
        "os.link",
        "os.chmod",
        "os.chown",
        "os.truncate",
        "shutil.rmtree",
    }
)
_LINKS = frozenset({"os.symlink", "os.link", "os.rename"})  # the second argument is made
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Violation(BaseException):
    """The property is broken; no `except Exception` of a reader may hide it."""


class Guard:
    """Watches this process from now on; there is no way back.

    Args:
        folder: the only place where files may be written.
        secret: a file that nothing may open.
        memory_bytes: address space that the process may have beyond what it has now.
        programs: executables that may be started.
    """

    def __init__(
        self,
        folder: Path,
        secret: Path | None = None,
        memory_bytes: int = 0,
        programs: tuple[str, ...] = (),
    ) -> None:
        self.allowed = f"{folder.resolve()}{os.sep}"
        self.secret = None if secret is None else str(secret.resolve())
        self.programs = programs
        if memory_bytes:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            self._opened(*arguments)
        elif event in _FORBIDDEN:
            raise Violation(f"{event}{arguments!r:.200}")
        elif event in _CHANGES:
            self._inside(event, arguments[1 if event in _LINKS else 0])
        elif event == "subprocess.Popen" and arguments[0] not in self.programs:
            raise Violation(f"started {arguments[0]!r}")

    def _opened(self, path: object, mode: object, flags: int) -> None:
        if isinstance(path, int):
            return
        if flags & _WRITES:
            self._inside("open for writing", path)
        elif self.secret and isinstance(path, str | os.PathLike):
            name = os.fspath(path)
            leads = "secret" in str(name) or Path(os.fsdecode(name)).is_symlink()
            if leads and os.path.realpath(os.fsdecode(name)) == self.secret:
                raise Violation(f"read {name!r}")

    def _inside(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.realpath(os.fsdecode(path))
        if name != os.devnull and not f"{name}{os.sep}".startswith(self.allowed):
            raise Violation(f"{event}: {name}")


def require_text(error: WorkbenchError) -> str:
    """The code of an error whose text says what, where and how to mend it.

    Raises:
        Violation: a part is missing, cannot be shown, or goes on without end.
    """
    text = str(error)
    if not (error.what and error.where and error.fix):
        raise Violation(f"{type(error).__name__} lacks what, where or fix: {text!r:.300}")
    if len(text) > 6000:
        raise Violation(f"{type(error).__name__} has {len(text)} characters: {text!r:.300}")
    try:
        text.encode()
    except UnicodeEncodeError as unprintable:
        raise Violation(f"{type(error).__name__} cannot be shown: {text!r:.300}") from unprintable
    return type(error).code()
