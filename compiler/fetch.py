"""Downloads that resume, retry, and never leave a wrong or half a file under the final name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from compiler.errors import FetchError
from compiler.store import file_sha256, storage

_TIMEOUT_S: Final = 30.0
_TRIES: Final = 4
_BLOCK_BYTES: Final = 1 << 18


class _InterruptedError(Exception):
    """A transfer ended early for a reason that may pass."""


def download(
    url: str, to: Path, *, sha256: str | None, sleep: Callable[[float], None] = time.sleep
) -> Path:
    """Fetch `url` to the file `to`, with a progress bar on a terminal, and return `to`.

    What has arrived is kept in ``<to>.part`` until it is complete, so a later call goes on where
    an earlier one stopped (HTTP Range; a server that ignores it sends everything again). A
    dropped connection, a truncated body and a temporary HTTP status are tried again with
    exponential back-off, `_TRIES` times without a new byte. A file that is there already is kept.

    Args:
        url: http or https.
        to: final path; its folder is made.
        sha256: expected digest in hexadecimal, or None where none is known.
        sleep: waits that many seconds between tries.

    Raises:
        FetchError: the file cannot be had, or its digest is not `sha256` (the part is deleted).
        StorageError: the folder cannot be written.
    """
    if to.is_file():
        _require_digest(to, sha256, url)
        return to
    if not re.match(r"https?://", url):
        raise FetchError("not an http or https address", where=url, fix="correct the address")
    part = to.with_name(f"{to.name}.part")
    with storage(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("a+b")
    with file:
        _lock(file, part)
        try:
            if not to.is_file():  # another process may have finished just before the lock
                _complete(url, file, sha256, sleep)
                with storage(to):
                    part.replace(to)
        finally:
            with contextlib.suppress(OSError):
                if part.stat().st_size == 0:
                    part.unlink()
    return to


def _complete(
    url: str, file: IO[bytes], sha256: str | None, sleep: Callable[[float], None]
) -> None:
    """Bring the part `file` to its full length and right digest, or empty it and refuse."""
    part = Path(file.name)
    resumed = file.seek(0, os.SEEK_END) > 0
    _receive(url, file, sleep)
    if resumed and sha256 is not None and file_sha256(part) != sha256:
        file.truncate(0)  # its beginning may stem from another version of the file
        _receive(url, file, sleep)
    try:
        _require_digest(part, sha256, url)
    except FetchError:
        file.truncate(0)
        raise


def _receive(url: str, file: IO[bytes], sleep: Callable[[float], None]) -> None:
    """Transfer until `file` is complete, going on after interruptions."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True)
    longest, failures = file.seek(0, os.SEEK_END), 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(url.rsplit("/", 1)[-1], total=None)
        while True:
            try:
                _transfer(
                    url, file, lambda done, total: progress.update(bar, completed=done, total=total)
                )
                return
            except _InterruptedError as error:
                size = file.seek(0, os.SEEK_END)
                failures = 1 if size > longest else failures + 1
                longest = max(longest, size)
                if failures == _TRIES:
                    raise _failed(f"the download failed {_TRIES} times: {error}", url) from error
            sleep(2.0 ** (failures - 1))


def _transfer(url: str, file: IO[bytes], report: Callable[[int, int | None], None]) -> None:
    """Append what is missing of `url` to `file`, in one request."""
    offset = file.seek(0, os.SEEK_END)
    response = _open(url, offset)
    if response is None:
        return
    with response:
        size, total = _range(response.headers) if response.status == 206 else (0, None)
        if response.status != 206 and "Content-Length" in response.headers:
            total = int(response.headers["Content-Length"])
        if size != offset:
            with storage(Path(file.name)):
                file.truncate(0)
            if size:
                raise _InterruptedError(f"the server resumed at byte {size}, not {offset}")
        while block := _read(response):
            with storage(Path(file.name)):
                file.write(block)
            size += len(block)
            report(size, total)
    with storage(Path(file.name)):
        file.flush()
    if total is not None and size != total:
        raise _InterruptedError(f"{size} of {total} bytes came")


def _open(url: str, offset: int) -> HTTPResponse | None:
    """Send the request; None where the server says that nothing is missing."""
    headers = {"User-Agent": "vacc-workbench", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and _range(error.headers)[1] == offset:
                return None
            if error.code == 416 and offset:
                return _open(url, 0)
            if error.code in (408, 425, 429) or error.code >= 500:
                raise _InterruptedError(f"HTTP {error.code} {error.reason}") from error
            raise _failed(f"the server answers HTTP {error.code} {error.reason}", url) from error
    except urllib.error.URLError as error:
        raise _InterruptedError(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _InterruptedError(str(error) or type(error).__name__) from error
    return response


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(_BLOCK_BYTES)
    except (OSError, HTTPException) as error:
        raise _InterruptedError(str(error) or type(error).__name__) from error


def _range(headers: Message) -> tuple[int, int | None]:
    """First byte and total length of a Content-Range header; (-1, None) where there is none."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", ""))
    if match is None:
        return -1, None
    first, total = match.groups()
    return int(first or 0), None if total == "*" else int(total)


def _lock(file: IO[bytes], part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise FetchError(
            "another process is downloading this file", where=str(part), fix="wait for it"
        ) from error


def _require_digest(path: Path, sha256: str | None, url: str) -> None:
    if sha256 is None:
        return
    actual = file_sha256(path)
    if actual != sha256:
        raise FetchError(
            f"sha256 is {actual}, expected {sha256}",
            where=str(path),
            fix=f"delete the file and fetch {url} again, by hand if need be (then pass FROM=PATH)",
        )


def _failed(what: str, url: str) -> FetchError:
    return FetchError(what, where=url, fix="download it by hand and pass FROM=PATH")
