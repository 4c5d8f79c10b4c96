"""calib.images.files against cv2 and Pillow, and against damaged files."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calib.errors import DataError, ImageError
from calib.images import (
    digest,
    list_images,
    read_image,
    read_size,
    write_image,
)
from calib.images.files import MAX_PIXELS

SHARED = Path(__file__).parents[3].parent / "shared"


def photo(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 1.5)


def encode(suffix: str, bgr: np.ndarray) -> bytes:
    return cv2.imencode(suffix, bgr)[1].tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(pixels))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_read_image_is_cv2_imread_in_rgb_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode(suffix, photo()))
    rgb = read_image(path)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert read_size(path) == rgb.shape[:2]
    np.testing.assert_array_equal(rgb, cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
    if suffix != ".webp":
        np.testing.assert_array_equal(rgb, np.asarray(Image.open(path).convert("RGB")))


def test_grey_and_16_bit_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    deep = rng.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    grey = deep[..., 0]
    for name, stored, expected in [
        ("grey8.png", (grey >> 8).astype(np.uint8), np.repeat((grey >> 8)[..., None], 3, axis=2)),
        ("grey16.png", grey, np.repeat((grey >> 8)[..., None], 3, axis=2)),
        ("rgb16.png", deep, (deep >> 8)[..., ::-1]),
    ]:
        (tmp_path / name).write_bytes(encode(".png", stored))
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)


def test_alpha_is_dropped_and_orientation_applied(tmp_path: Path) -> None:
    rgba = np.random.default_rng(2).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), rgba[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(rgba[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 5, 3)
    assert read_size(tmp_path / "turned.jpg") == (6, 5)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    data = encode(suffix, photo(64, 64))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_png_with_too_few_pixels_or_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes(30) for _ in range(10))
    path = tmp_path / "a.png"
    path.write_bytes(png(10, 10, rows))
    assert read_image(path).shape == (10, 10, 3)
    good = bytearray(path.read_bytes())
    good[-20] ^= 1
    for bad in (png(10, 10, rows[:100]), bytes(good)):
        path.write_bytes(bad)
        with pytest.raises(ImageError, match="truncated or damaged"):
            read_image(path)


def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path) -> None:
    """A few bytes make a scan, and each goes over all pixels: minutes from a small file."""
    encoded = io.BytesIO()
    Image.fromarray(photo()).save(encoded, "JPEG", progressive=True)
    data = encoded.getvalue()
    at = data.index(b"\xff\xda")
    scan = data[at : data.index(b"\xff\xc4", at)]
    path = tmp_path / "a.jpg"
    for more in (0, 100):
        path.write_bytes(data[:at] + scan * more + data[at:])
        assert read_image(path).shape == photo().shape
    path.write_bytes(data[:at] + scan * 2000 + data[at:])
    with pytest.raises(ImageError, match=r"it has 20\d\d scans; 1000 are decoded at most"):
        read_image(path)


def test_what_pillow_only_warns_of_is_read_in_silence(tmp_path: Path) -> None:
    """A TIFF whose directory follows itself, or with a tag that reaches beyond the file."""
    cv2.imwrite(str(tmp_path / "good.tif"), photo())
    data = bytearray((tmp_path / "good.tif").read_bytes())
    at = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[at : at + 2], "little")
    beyond = struct.pack("<HHII", 0x9286, 7, 1 << 20, len(data) - 4)
    moved = data[at + 2 : at + 2 + 12 * entries] + beyond
    directory = struct.pack("<H", entries + 1) + moved + struct.pack("<I", len(data))
    path = tmp_path / "a.tif"
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + directory)
    np.testing.assert_array_equal(read_image(path), photo()[..., ::-1])


def test_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60000, 60000, b"\0"))
    with pytest.raises(ImageError, match=f"60000 x 60000 pixels, more than .* {MAX_PIXELS}"):
        read_image(path)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for name, content, what in [
        ("missing.png", None, "No such file"),
        ("folder.png", None, "not a regular file"),
        ("fifo.png", None, "not a regular file"),
        ("empty.png", b"", "empty"),
        ("text.png", b"hello, world", "not an image of a kind"),
        ("anim.gif", b"GIF89a\x01\x00\x01\x00", "not an image of a kind"),
        ("head.png", b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        ("nul\0.png", None, "cannot be read"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=what) as caught:
            read_image(tmp_path / name)
        assert name in caught.value.where


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([".png", ".jpg", ".bmp", ".webp"]), st.data())
def test_damaged_bytes_give_an_image_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    content = bytearray(encode(suffix, photo(16, 16)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        assert read_image(path).ndim == 3


def test_write_image_round_trips_and_leaves_nothing_on_failure(tmp_path: Path) -> None:
    rgb = photo()
    path = tmp_path / "new" / "a.png"
    write_image(path, rgb)
    np.testing.assert_array_equal(read_image(path), rgb)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), rgb)
    write_image(path, rgb[..., :1])
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), rgb[..., 0])
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", rgb)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "taken", rgb)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.png", "file", "new", "taken"]
    with pytest.raises(ValueError, match="expected uint8"):
        write_image(path, rgb.astype(np.float32))


def test_digest_is_of_the_content() -> None:
    rgb = photo(4, 6)
    assert digest(rgb) == digest(np.asfortranarray(rgb)) == digest(rgb.copy())
    others = [rgb.reshape(6, 4, 3), rgb.astype(np.int16), rgb ^ 1, rgb[..., ::-1]]
    assert len({digest(rgb), *map(digest, others)}) == 5


def test_list_images_is_sorted_by_name_and_limited(tmp_path: Path) -> None:
    for name in ["b.png", "a10.png", "a2.PNG", "c.jpg", ".hidden.png", "notes.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [p.name for p in list_images(tmp_path, "png", None)]
    assert names == ["a10.png", "a2.PNG", "b.png"]
    assert [p.name for p in list_images(tmp_path, ".PNG", 2)] == names[:2]
    assert [p.name for p in list_images(tmp_path, None, None)] == [*names, "c.jpg"]


def test_list_images_says_what_is_there_instead(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_images(tmp_path / "none", "png", None)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match="not a folder"):
        list_images(tmp_path / "a.jpg", "png", None)
    with pytest.raises(DataError, match=r"no file with suffix \.png; the folder holds \.jpg"):
        list_images(tmp_path, "png", 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no files at all"):
        list_images(tmp_path / "empty", None, None)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
def test_real_photographs_read_as_pillow_reads_them() -> None:
    for name in ["cc0/canyon-wren.jpg", "set14/HR/bridge.png", "set5/HR/baby.png"]:
        path = SHARED / "data" / name
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_reading_prints_nothing(tmp_path: Path) -> None:
    """OpenCV logs to stderr; a refused image must not add noise to the one clear error."""
    for suffix in (".png", ".jpg", ".bmp"):
        (tmp_path / f"cut{suffix}").write_bytes(encode(suffix, photo())[:-200])
    code = (
        "import sys; from pathlib import Path\n"
        "from calib.errors import ImageError; from calib.images import read_image\n"
        "for p in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: read_image(p)\n"
        "    except ImageError: print('refused')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("refused\n" * 3, "")
