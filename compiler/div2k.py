"""DIV2K's validation images: fetched, checked, and unpacked to the layout that everyone uses.

    DIV2K_valid_HR/0801.png   DIV2K_valid_LR_bicubic/X2/0801x2.png   .../X3/0801x3.png

The data set (Agustsson and Timofte, "NTIRE 2017 challenge on single image super-resolution:
dataset and study") is free for academic research only. Its authors publish no digests, so the
first archive whose 100 images all decode is recorded in a lock file beside the data set, and
every later one must equal it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from calib.errors import DataError, ImageError
from calib.images import read_image
from compiler import cli
from compiler.data import pair
from compiler.errors import FetchError
from compiler.fetch import download
from compiler.progress import Reporter
from compiler.store import atomic, file_sha256, storage, write_json

URL: Final = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
OUT: Final = Path("data/DIV2K")
NUMBERS: Final = range(801, 901)
_MAX_IMAGE_BYTES: Final = 2**26


@dataclass(frozen=True)
class Archive:
    """One zip file: its name, and folder and ending of the images in it (0801 + `ending`.png)."""

    file: str
    folder: str
    ending: str = ""

    def images(self) -> list[str]:
        """File names of its images, in order."""
        return [f"{number:04}{self.ending}.png" for number in NUMBERS]

    def is_unpacked(self, root: Path) -> bool:
        """Whether every image is there below `root`."""
        return all((root / self.folder / name).is_file() for name in self.images())


HR: Final = Archive("DIV2K_valid_HR.zip", "DIV2K_valid_HR")
LR: Final = {
    rate: Archive(
        f"DIV2K_valid_LR_bicubic_X{rate}.zip", f"DIV2K_valid_LR_bicubic/X{rate}", f"x{rate}"
    )
    for rate in (2, 3)
}


def install(out: Path, sources: Sequence[Path], reporter: Reporter, url: str = URL) -> None:
    """Bring the images of every archive that is not there yet below `out`.

    Each folder appears whole or not at all. Afterwards LR and HR are paired as a check.

    Args:
        out: the data set's folder.
        sources: zip files, folders of zip files, or folders in the unpacked layout; archives that
            are in none of them are left out. Where `sources` is empty everything is downloaded.
        url: folder of the archives, ending in a slash.

    Raises:
        FetchError: a download failed, or an archive is not the recorded one.
        DataError: an archive is damaged or incomplete, or no source has any.
        StorageError: `out` cannot be written.
    """
    archives = [HR, *LR.values()]
    found = {archive: _find(archive, sources) for archive in archives} if sources else {}
    if sources and not any(found.values()):
        raise DataError(
            f"none of {', '.join(archive.file for archive in archives)} is there",
            where=", ".join(map(str, sources)),
            fix="name the zip files, or the folder that holds them",
        )
    for archive in archives:
        if archive.is_unpacked(out):
            reporter.stage(f"{archive.folder}: there already")
        elif not sources:
            _download(archive, out, reporter, url)
        elif source := found[archive]:
            _unpack(archive, source, out, reporter)
        else:
            reporter.warn(f"{archive.file} is in none of the sources: left out")
    for rate, archive in LR.items():
        if archive.is_unpacked(out) and HR.is_unpacked(out):
            pair(out / archive.folder, out / HR.folder, rate)


def _download(archive: Archive, out: Path, reporter: Reporter, url: str) -> None:
    path = out / archive.file
    download(url + archive.file, path, sha256=_recorded(out).get(archive.file))
    try:
        _unpack(archive, path, out, reporter)
    except DataError:
        path.unlink()  # it would stand in the way of the next download
        raise
    path.unlink()


def _find(archive: Archive, sources: Sequence[Path]) -> Path | None:
    for source in sources:
        if not source.exists():
            raise DataError("does not exist", where=str(source), fix="correct the path")
        if source.name == archive.file:
            return source
        if (source / archive.file).is_file():
            return source / archive.file
        if (source / archive.folder).is_dir():
            return source / archive.folder
    return None


def _unpack(archive: Archive, source: Path, out: Path, reporter: Reporter) -> None:
    """Write the images of a zip file or folder below `out`, once all of them decode."""
    sha256 = file_sha256(source) if source.is_file() else None
    recorded = _recorded(out)
    if sha256 and recorded.get(archive.file, sha256) != sha256:
        raise FetchError(
            f"sha256 is {sha256}, recorded is {recorded[archive.file]}",
            where=str(source),
            fix=f"fetch the archive again, or delete {_lock(out)} if you trust this one more",
        )
    with _reader(archive, source) as read, atomic(out / archive.folder) as folder:
        with storage(folder):
            folder.mkdir()
        for name in reporter.track(archive.images(), archive.folder):
            data = read(name)
            with storage(folder / name):
                (folder / name).write_bytes(data)
            try:
                read_image(folder / name)
            except ImageError as error:
                raise _damaged(source, f"{name}: {error.what}") from error
    if sha256:
        write_json(_lock(out), recorded | {archive.file: sha256})


@contextlib.contextmanager
def _reader(archive: Archive, source: Path) -> Iterator[Callable[[str], bytes]]:
    """Yield a function that returns an image's bytes by its bare name.

    Only the names that an archive must have are ever looked up, whatever folder they are in, so no
    path in a zip file reaches the file system.
    """
    if source.is_dir():

        def read_file(name: str) -> bytes:
            try:
                return (source / name).read_bytes()
            except OSError as error:
                raise _damaged(source, f"{name}: {error.strerror}") from error

        yield read_file
        return
    try:
        file = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(source, str(error)) from error
    with file:
        members = {PurePosixPath(info.filename).name: info for info in file.infolist()}
        missing = [name for name in archive.images() if name not in members]
        if missing:
            raise _damaged(source, f"it lacks {', '.join(missing)}")

        def read_member(name: str) -> bytes:
            try:
                with file.open(members[name]) as member:
                    data = member.read(_MAX_IMAGE_BYTES + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
                raise _damaged(source, f"{name}: {error}") from error
            if len(data) > _MAX_IMAGE_BYTES:
                raise _damaged(source, f"{name} is larger than {_MAX_IMAGE_BYTES} bytes")
            return data

        yield read_member


def _lock(out: Path) -> Path:
    return out.with_name(f"{out.name}.lock.json")


def _recorded(out: Path) -> dict[str, str]:
    """Digests by archive, from the lock file."""
    lock = _lock(out)
    try:
        recorded = json.loads(lock.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise DataError(
            f"the lock file cannot be read: {error}", where=str(lock), fix="restore or delete it"
        ) from error
    if not isinstance(recorded, dict):
        raise DataError(
            "the lock file is no JSON object", where=str(lock), fix="restore or delete it"
        )
    return {str(name): str(sha256) for name, sha256 in recorded.items()}


def _damaged(source: Path, reason: str) -> DataError:
    return DataError(
        f"the archive is damaged or incomplete: {reason}",
        where=str(source),
        fix="fetch it again",
    )


def parser() -> argparse.ArgumentParser:
    """Command line of `python -m compiler.data`."""
    result = cli.command(
        "data",
        "Fetch DIV2K's validation images (free for academic research only).",
        examples=("", "--from Downloads", "--from DIV2K_valid_HR.zip --out data/DIV2K"),
    )
    result.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR_OR_ZIP",
        help="take the archives, or unpacked images, from there instead of the network",
    )
    result.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")
    return cli.with_output(result)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Install what the arguments ask for; always 0 (errors are raised)."""
    install(args.out, args.sources, reporter)
    reporter.stage(f"DIV2K is in {args.out}")
    return 0
