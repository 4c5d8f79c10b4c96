"""Hostile images: real files of every kind cut, changed, and with sizes that lie."""

from __future__ import annotations

import functools
import io
import pickle
import random
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from calib.images import read_image, read_npz, read_size
from tests.fuzz.guard import Violation
from tests.fuzz.mutate import bytes_level

NAME = "image"
SUFFIX = ".bin"
MEMORY_BYTES = 3 << 30
SECONDS = 20.0
_PNG, _JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd9"
_SIDES = (0, 1, 7, 255, 16384, 65535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)


class _Evil:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("open('/tmp/vacc-owned', 'w')",))


@functools.cache
def _seeds() -> tuple[bytes, ...]:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (9, 13, 3)).astype(np.uint8)
    found = [
        cv2.imencode(suffix, image)[1].tobytes()
        for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp")
        for image in (rgb, rgb[..., 0], np.zeros((40, 30, 3), np.uint8))
    ]
    found.append(cv2.imencode(".png", rgb.astype(np.uint16) * 257)[1].tobytes())
    found.append(cv2.imencode(".png", np.dstack([rgb, rgb[..., :1]]))[1].tobytes())
    for mode, kind in (
        ("P", "PNG"),
        ("L", "GIF"),
        ("CMYK", "JPEG"),
        ("1", "TIFF"),
        ("I;16", "PNG"),
    ):
        file = io.BytesIO()
        Image.fromarray(rgb).convert("L" if mode == "I;16" else mode).save(file, kind)
        found.append(file.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", exif=exif)
    return (*found, file.getvalue())


@functools.cache
def _archives() -> tuple[bytes, ...]:
    rgb = np.zeros((3, 5, 4), np.uint8)
    arrays: tuple[dict[str, object], ...] = (
        {"input_0": rgb},
        {"input_0": rgb[None]},
        {"a": rgb, "b": rgb},
        {},
        {"x": np.array([_Evil()], object)},
        {"x": np.float32(3)},
        {"x": np.array("text")},
        {"../x": rgb},
    )
    found = []
    for each in arrays:
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=True, **each)  # type: ignore[arg-type]
        found.append(file.getvalue())
    return (*found, _zip("x.npy", pickle.dumps(_Evil())), _zip("x.npy", _header((1 << 40,))))


def _header(shape: tuple[int, ...], kind: str = "|u1", data: bytes = b"\0" * 16) -> bytes:
    """A .npy file whose header promises `shape`."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _zip(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def _bomb(rng: random.Random) -> bytes:
    """A small file that promises, or holds, a large image."""
    w, h = rng.choice(_SIDES), rng.choice(_SIDES)
    match rng.randrange(6):
        case 0:
            depth, colour = rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 4, 6))
            head = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, rng.randrange(2))
            pixels = zlib.compress(bytes(rng.choice((10, 100_000, 2_000_000))), 9)
            chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
            return _PNG + chunks
        case 1:
            text = zlib.compress(bytes(50_000_000), 9)
            extra = _chunk(rng.choice((b"zTXt", b"iCCP", b"iTXt")), b"a\0\0" + text)
            return _seeds()[0].replace(_chunk(b"IEND", b""), extra + _chunk(b"IEND", b""))
        case 2:
            bits = rng.choice((1, 8, 24, 32))
            info = struct.pack("<IiiHHIIiiII", 40, w & 0x7FFFFFFF, -(h & 0xFFFF), 1, bits,
                               rng.randrange(4), 0, 0, 0, rng.choice(_SIDES), 0)  # fmt: skip
            return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info + bytes(100)
        case 3:
            return _zip("input_0.npy", _header((3, w, h), rng.choice(("|u1", "|O", "<f8", "|V9"))))
        case 4:
            return _zip("x.npy", _header((3, 1 << 14, 1 << 11)) + bytes(3 << 20))
        case _:
            tags = [(256, w), (257, h), (258, 8), (259, rng.choice((1, 5, 8, 32773))), (262, 1),
                    (273, 8), (278, h), (279, rng.choice(_SIDES))]  # fmt: skip
            entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
            return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def make(rng: random.Random) -> bytes:
    """One case: a real image or archive, changed; or a bomb."""
    kind = rng.random()
    if kind < 0.15:
        data = _bomb(rng)
        return bytes_level(rng, data) if kind < 0.04 else data
    data = rng.choice(_archives() if kind < 0.35 else _seeds())
    return bytes_level(rng, data) if rng.random() < 0.95 else data


def judge(data: bytes, folder: Path) -> str:
    """Reads one file as an image and, where it is an archive, as one of those."""
    path = folder / f"case{SUFFIX}"
    path.write_bytes(data)
    if data.startswith(b"PK"):
        return _checked(read_npz(path), "archive")
    size = read_size(path)
    image = read_image(path)
    if image.shape[:2] != size:
        raise Violation(f"read_size says {size}, read_image gives {image.shape}")
    return _checked(image, "image")


def _checked(image: np.ndarray, word: str) -> str:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise Violation(f"{word}: {image.dtype} {image.shape}")
    return word
