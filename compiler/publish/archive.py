"""The archive of a bundle: an uncompressed ustar whose bytes depend on the bundle alone.

Names are sorted, times and owners are zero, modes are 0644. It is not compressed: the bytes that a
compressor writes depend on its version, and a bundle is small. measured/ depends on the clock and
stays outside.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Final

from compiler import bundle
from compiler.errors import ArtifactError, BundleError
from compiler.store import atomic, storage

MAX_BYTES: Final = 1 << 30  # of an archive, and of what comes out of it
MAX_FILES: Final = 1000
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # neither hidden, nor . or ..
_DEPTH: Final = 4


def pack(folder: Path, to: Path) -> None:
    """Writes the archive of the bundle at `folder` to the file `to`, atomically.

    Every file lies under the bundle's name. Each is compared with its digest as it is read.

    Raises:
        BundleError: not a bundle, or changed after it was built.
        StorageError: `to` cannot be written.
    """
    manifest = bundle.check(folder)
    recorded: dict[str, str] = manifest["files"]
    with atomic(to) as temporary, storage(to), tarfile.open(temporary, "x:") as tar:
        tar.format = tarfile.USTAR_FORMAT
        for name in sorted([*recorded, bundle.MANIFEST, bundle.SEAL]):
            data = (folder / name).read_bytes()
            if recorded.get(name) not in (None, hashlib.sha256(data).hexdigest()):
                raise bundle.changed(folder / name)
            _add(tar, f"{manifest['name']}/{name}", data)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # regular file, mode 0644, time and owner 0
    entry.size = len(data)
    try:
        tar.addfile(entry, io.BytesIO(data))
    except ValueError as error:
        raise BundleError(
            f"a path is too long for the archive: {error}", where=name, fix="shorten the name"
        ) from error


def unpack(archive: Path, into: Path) -> Path:
    """Extracts an archive that nobody trusts yet; returns the bundle's folder in `into`.

    Only regular files come out, only under one new folder of `into`, within the limits above.

    Raises:
        ArtifactError: no archive, an unsafe entry, or too large; nothing lies outside `into`.
        StorageError: `into` cannot be written.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                parts = _parts(member)
                if any(parts[:n] in seen for n in range(1, _DEPTH + 1)):
                    raise _unsafe(member.name, "the path occurs twice")
                if seen and parts[0] != next(iter(seen))[0]:
                    raise _unsafe(member.name, "a second folder")
                seen.add(parts)
                total += member.size
                if len(seen) > MAX_FILES or total > MAX_BYTES:
                    raise _unsafe(member.name, f"more than {MAX_FILES} files or {MAX_BYTES} bytes")
                _extract(tar, member, into.joinpath(*parts))
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ArtifactError(
            f"it is no complete tar archive: {error}", where=str(archive), fix="fetch it again"
        ) from error
    if not seen:
        raise ArtifactError("the archive is empty", where=str(archive), fix="publish it again")
    return into / next(iter(seen))[0]


def _parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    """The path of an entry, after everything was refused that a bundle never holds."""
    parts = tuple(member.name.split("/"))
    if member.type != tarfile.REGTYPE or member.sparse is not None:
        raise _unsafe(member.name, "not a regular file")
    if not 2 <= len(parts) <= _DEPTH or not all(map(_PART.fullmatch, parts)):
        raise _unsafe(member.name, "not a path below the bundle's folder")
    return parts


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None  # a regular file
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with source, path.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            written = file.tell()
    if written != member.size:
        raise tarfile.ReadError(f"{member.name} ends early")


def _unsafe(name: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"the archive is refused: {why}",
        where=name[:200],
        fix="do not use it; ask its publisher",
    )
