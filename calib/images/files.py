"""Image files as uint8 RGB arrays: strict reading, atomic writing, listing, content digests."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.Image import Exif
from PIL.ImageFile import ImageFile

from calib.errors import DataError, ImageError

Uint8: TypeAlias = NDArray[np.uint8]

MAX_PIXELS: Final = 2**27
"""Largest image that is decoded: 134 million pixels, 16384 x 8192, 400 MB as RGB."""

SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes (lower case) of the formats that `read_image` takes."""

_MAX_FILE_BYTES: Final = 2**30
_ORIENTATION: Final = 0x0112  # EXIF: 5 to 8 lie on their side
_JPEG_END: Final = b"\xff\xd9"
_JPEG_SCAN: Final = b"\xff\xda"
_MAX_SCANS: Final = 1000  # each goes over all pixels, and may be a few bytes long; 10 are usual
_KINDS: Final[tuple[tuple[bytes, type[ImageFile]], ...]] = (
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
)


def read_image(path: Path) -> Uint8:
    """Read an image file as uint8 [H, W, 3] in RGB order, or refuse it.

    The pixels are those of `cv2.imread(path, cv2.IMREAD_COLOR)`, red and blue swapped: grey
    becomes three equal channels, a palette is looked up, alpha is dropped, an EXIF orientation is
    applied, the first frame of several is taken. 16-bit samples come down to 8 bits as OpenCV does
    it: PNG keeps the high byte (u >> 8), TIFF rounds u / 257.

    Raises:
        ImageError: the file is missing, not a regular file, empty, not one of PNG, JPEG, BMP,
            TIFF, WebP, larger than `MAX_PIXELS` (judged from the header, before any pixel is
            decoded), truncated or damaged. OpenCV before version 5 fills a truncated image
            silently, so completeness is checked on the bytes.
    """
    data = read_bytes(path)
    header = _parse_header(data, path)
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"the image has {width} x {height} pixels, more than the limit of {MAX_PIXELS}",
            where=str(path),
            fix="crop it or scale it down first",
        )
    _check_complete(header, data, path)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None or sorted(bgr.shape[:2]) != sorted((height, width)):
            raise _damaged(path, "the decoder refuses it")
        rgb: Uint8 = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    except (cv2.error, MemoryError) as error:
        raise _damaged(path, str(error)) from error
    return rgb


def read_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of what `read_image` would return, from the header alone.

    Raises:
        ImageError: the file is missing, or its header is not one of a readable image.
    """
    data = read_bytes(path)
    header = _parse_header(data, path)
    width, height = header.size
    turned = _orientation(header, data) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def write_image(path: Path, rgb: Uint8) -> None:
    """Write uint8 [H, W, 3] RGB (or [H, W, 1] grey) as PNG, atomically, whatever the suffix.

    Raises:
        ImageError: the file cannot be written; nothing is left under `path` then.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] not in (1, 3):
        raise ValueError(f"expected uint8 [H, W, 3] or [H, W, 1], got {rgb.dtype} {rgb.shape}")
    encoded = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(encoded)
        part.replace(path)
    except OSError as error:
        raise ImageError(
            f"the image cannot be written: {error.strerror or error}",
            where=str(path),
            fix="choose a writable output folder with enough free space",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def digest(image: NDArray[np.generic]) -> str:
    """Return the sha256 (hex) of an image's content: its shape, dtype and pixels.

    Two files with the same pixels (a PNG and a BMP, say) have the same digest.
    """
    sha256 = hashlib.sha256(f"{image.dtype.str}{image.shape}".encode())
    sha256.update(np.ascontiguousarray(image).data)
    return sha256.hexdigest()


def list_images(folder: Path, suffix: str | None, limit: int | None) -> tuple[Path, ...]:
    """List the first `limit` images of `folder` in name order (code points; all if None).

    Args:
        folder: searched itself, without its sub-folders; names that begin with a dot are skipped.
        suffix: ``png`` or ``.png``, in any letter case; None takes every suffix of `SUFFIXES`.
        limit: largest number of paths returned; there may be fewer.

    Raises:
        DataError: the folder is missing or not a folder, or holds no such file.
    """
    if not folder.is_dir():
        raise DataError(
            "is not a folder" if folder.exists() else "the folder does not exist",
            where=str(folder),
            fix="correct the path, or fetch the images (`make data` for DIV2K)",
        )
    wanted = SUFFIXES if suffix is None else (f".{suffix.removeprefix('.').lower()}",)
    try:
        files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error.strerror}",
            where=str(folder),
            fix="make it readable",
        ) from error
    found = sorted((f for f in files if f.suffix.lower() in wanted), key=lambda file: file.name)
    if not found:
        others = ", ".join(sorted({f.suffix or "no suffix" for f in files})) or "no files at all"
        raise DataError(
            f"no file with suffix {' '.join(wanted)}; the folder holds {others}",
            where=str(folder),
            fix="correct `sampler.suffix` or the path",
        )
    return tuple(found[:limit])


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file that is not empty and no larger than 1 GiB.

    Raises:
        ImageError: it is not that, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(
                "is not a regular file", where=str(path), fix="give the path of an image file"
            )
        if status.st_size > _MAX_FILE_BYTES:
            raise ImageError(
                f"the file has {status.st_size} bytes, more than the limit of {_MAX_FILE_BYTES}",
                where=str(path),
                fix="give an image file of a usual size",
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(
            f"the image cannot be read: {reason}",
            where=str(path),
            fix="correct the path or the file's permissions",
        ) from error
    if not data:
        raise ImageError("the file is empty", where=str(path), fix="replace or remove the file")
    return data


def _parse_header(data: bytes, path: Path) -> ImageFile:
    """Parse the header alone. Pillow's plugin classes, unlike its `open`, warn about no size."""
    for signature, kind in _KINDS:
        if data.startswith(signature):
            try:
                with _unwarned():
                    return kind(io.BytesIO(data))
            except Exception as error:  # Pillow's parsers raise whatever damaged bytes lead to
                raise _damaged(path, f"its header cannot be parsed ({error})") from error
    raise ImageError(
        "is not an image of a kind that is read here (PNG, JPEG, BMP, TIFF, WebP)",
        where=str(path),
        fix="convert the file to PNG, or remove it from the folder",
    )


def _orientation(header: ImageFile, data: bytes) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, or none that can be read.

    Pillow would decode a whole PNG to find it.
    """
    try:
        if isinstance(header, PngImagePlugin.PngImageFile):
            exif = Exif()
            exif.load(_png_chunk(data, b"eXIf"))
        else:
            exif = header.getexif()
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # Pillow's parsers raise whatever damaged bytes lead to; OpenCV reads on
        return 1


def _png_chunk(data: bytes, kind: bytes) -> bytes:
    """The first chunk of a kind, or nothing."""
    at = 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == kind:
            return data[at + 8 : at + 8 + size]
        at += 12 + size
    return b""


def _check_complete(header: ImageFile, data: bytes, path: Path) -> None:
    """Prove that no byte is missing: PNG by its checksums, JPEG by its end, others by decoding."""
    if isinstance(header, JpegImagePlugin.JpegImageFile):
        if (scans := data.count(_JPEG_SCAN)) > _MAX_SCANS:
            raise _damaged(path, f"it has {scans} scans; {_MAX_SCANS} are decoded at most")
        if data.rstrip(b"\0").endswith(_JPEG_END):
            return
    try:
        with _unwarned():
            if isinstance(header, PngImagePlugin.PngImageFile):
                header.verify()
            else:
                header.load()
    except Exception as error:  # as above
        raise _damaged(path, str(error)) from error


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Without what Pillow warns of: a file is read, or refused with an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damaged(path: Path, reason: str) -> ImageError:
    return ImageError(
        f"the image is truncated or damaged: {reason}",
        where=str(path),
        fix="fetch or export the file again, or remove it from the folder",
    )
