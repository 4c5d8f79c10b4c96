"""calib.images against cv2 and Pillow, and against the published code for Bicubic++."""

import contextlib
import io
import os
import re
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
from pydantic import TypeAdapter, ValidationError

from calib import images
from calib.errors import DataError, ImageError, ProcessOpError
from calib.images import (
    CenterCrop,
    ChannelSplit,
    CvtColor,
    DecodeImage,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
    ToTensor,
    apply_ops,
    byte_values,
    digest,
    list_images,
    pointwise_table,
    read_image,
    read_size,
    write_image,
)
from calib.images.files import MAX_PIXELS

SHARED = Path(__file__).parents[2].parent / "shared"
ADAPTER: TypeAdapter[ProcessOp] = TypeAdapter(ProcessOp)
BPP = [
    {"type": "DecodeImage"},
    {"type": "Resize", "size": [1080, 1920]},
    {"type": "Normalize", "norm_type": None},
    {"type": "ToTensor"},
]


def parse(*ops: dict[str, object]) -> list[ProcessOp]:
    return [ADAPTER.validate_python(op) for op in ops]


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


# --- files ---------------------------------------------------------------------------------------


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


# --- process_ops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(37, 53), (1080, 1920), (1300, 2100)])
def test_bicubic_plusplus_preprocessing_as_published(tmp_path: Path, size: tuple[int, int]) -> None:
    """imread, resize to 1920x1080, BGR to RGB, CHW, float32 / 255, add batch."""
    path = tmp_path / "a.png"
    path.write_bytes(encode(".png", photo(*size)))
    image = cv2.imread(str(path))
    image = cv2.resize(image, (1920, 1080))
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    image = np.transpose(image, (2, 0, 1)).astype(np.float32)
    image /= 255.0
    expected = np.expand_dims(image, 0)

    tensor = apply_ops(parse(*BPP), read_image(path))
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor[None], expected)


def test_resize_is_cv2_resize_with_the_dtype_it_gets() -> None:
    rgb = photo()
    for name, code in [
        ("nearest", cv2.INTER_NEAREST),
        ("bilinear", cv2.INTER_LINEAR),
        ("bicubic", cv2.INTER_CUBIC),
        ("area", cv2.INTER_AREA),
        ("lanczos", cv2.INTER_LANCZOS4),
    ]:
        op = Resize(size=(20, 31), interpolation=name)
        for image in (rgb, rgb.astype(np.float32)):
            resized = op.apply(image)
            assert resized.dtype == image.dtype
            np.testing.assert_array_equal(resized, cv2.resize(image, (31, 20), interpolation=code))
    grey = Resize(size=(20, 31)).apply(rgb[..., :1])
    np.testing.assert_array_equal(grey[..., 0], cv2.resize(rgb[..., 0], (31, 20)))


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_resize_with_pillow(name: str) -> None:
    rgb = photo()
    op = Resize(size=(20, 31), interpolation=name, backend="pillow")
    expected = Image.fromarray(rgb).resize((31, 20), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(op.apply(rgb), np.asarray(expected))
    assert op.apply(rgb[..., :1]).shape == (20, 31, 1)
    with pytest.raises(ProcessOpError, match="8-bit"):
        op.apply(rgb.astype(np.float32))


@pytest.mark.parametrize(
    ("side", "of_37_x_53", "of_53_x_37"),
    [
        (None, (20, 28), (28, 20)),  # int(20 * 53 / 37)
        ("short", (20, 28), (28, 20)),
        ("long", (13, 20), (20, 13)),  # int(20 * 37 / 53)
        ("height", (20, 28), (20, 13)),
        ("width", (13, 20), (28, 20)),
    ],
)
def test_resize_of_one_side(
    side: str | None, of_37_x_53: tuple[int, int], of_53_x_37: tuple[int, int]
) -> None:
    op = parse({"type": "Resize", "size": [20, -1], "adaptive_side": side})[0]
    assert op.apply(photo(37, 53)).shape == (*of_37_x_53, 3)
    assert op.apply(photo(53, 37)).shape == (*of_53_x_37, 3)
    assert op.apply(photo(40, 40)).shape == (20, 20, 3)
    with pytest.raises(ProcessOpError, match="of an image of 1 x 20000"):
        Resize(size=(20, -1), adaptive_side="short").apply(np.zeros((1, 20000, 3), np.uint8))


def test_size_may_be_one_number() -> None:
    op = parse({"type": "Resize", "size": 24})[0]
    np.testing.assert_array_equal(op.apply(photo()), cv2.resize(photo(), (24, 24)))


def test_center_crop_rounds_half_a_pixel_to_even() -> None:
    image = photo(10, 11)
    crop = CenterCrop(crop_size=(7, 6))
    np.testing.assert_array_equal(crop.apply(image), image[2:9, 2:8])  # 1.5 -> 2, 2.5 -> 2
    np.testing.assert_array_equal(CenterCrop(crop_size=(10, 11)).apply(image), image)
    with pytest.raises(ProcessOpError, match="12 x 12 of an image of 10 x 11"):
        parse({"type": "CenterCrop", "crop_size": 12, "backend": "pillow"})[0].apply(image)


def test_pad_extends_at_the_bottom_or_the_right() -> None:
    image = photo(5, 8)
    square = Pad(pad_to_square=True).apply(image)
    expected = cv2.copyMakeBorder(image, 0, 3, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    np.testing.assert_array_equal(square, expected)
    np.testing.assert_array_equal(
        Pad(pad_to_square=True).apply(image.swapaxes(0, 1))[:, :5], image.swapaxes(0, 1)
    )
    np.testing.assert_array_equal(Pad(pad_to_square=False).apply(image), image)


@pytest.mark.parametrize("code", ["COLOR_RGB2BGR", "COLOR_BGR2RGB", "COLOR_RGB2YCrCb"])
def test_cvt_color_is_literal(code: str) -> None:
    image = photo()
    op = parse({"type": "CvtColor", "code": code})[0]
    np.testing.assert_array_equal(op.apply(image), cv2.cvtColor(image, getattr(cv2, code)))
    with pytest.raises(ProcessOpError, match="takes 3 channels, got 1"):
        op.apply(image[..., :1])


def test_y_channel_pipeline() -> None:
    ops = parse(
        {"type": "DecodeImage"},
        {"type": "CvtColor", "code": "COLOR_RGB2YCrCb"},
        {"type": "Resize", "size": [20, 30]},
        {"type": "ChannelSplit", "index": 0},
        {"type": "Normalize", "norm_type": "None"},
        {"type": "ToTensor"},
    )
    y = cv2.resize(cv2.cvtColor(photo(), cv2.COLOR_RGB2YCrCb), (30, 20))[..., 0]
    np.testing.assert_array_equal(
        apply_ops(ops, photo()), y[None].astype(np.float32) / np.float32(255)
    )
    with pytest.raises(ProcessOpError, match="channel 2 of 1"):
        ChannelSplit(index=2).apply(photo()[..., :1])


def test_grey_decoding_is_within_one_step_of_cv2(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(encode(suffix, photo()))
        grey = DecodeImage(cv2_flags=0).apply(read_image(path))
        expected = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert np.abs(grey[..., 0].astype(int) - expected).max() <= 1


def test_normalize_in_float32() -> None:
    x = photo().astype(np.float32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    unit = x / np.float32(255)
    for op, expected in [
        ({}, unit),
        ({"norm_type": None}, unit),
        ({"norm_type": "None", "div255": True}, unit),
        ({"norm_type": None, "div255": False}, x),
        ({"mean": mean, "std": std}, (unit - np.float32(mean)) / np.float32(std)),
        ({"mean": [104, 117, 123], "std": [1, 1, 1], "div255": False}, x - (104, 117, 123)),
        ({"mean": 127.5, "std": 127.5, "div255": False}, (x - 127.5) / np.float32(127.5)),
        ({"mean": [0.5], "std": [0.5]}, (unit - np.float32(0.5)) / np.float32(0.5)),
    ]:
        y = parse({"type": "Normalize", **op})[0].apply(photo())
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, np.asarray(expected, np.float32))
    with pytest.raises(ProcessOpError, match="2 values for 3 channels"):
        Normalize(mean=(0.0, 0.0), std=(1.0, 1.0)).apply(photo())


def test_to_tensor_keeps_the_order_of_channels_wherever_it_stands() -> None:
    image = photo()
    chw = ToTensor().apply(image)
    assert chw.dtype == np.float32
    np.testing.assert_array_equal(chw, np.moveaxis(image, -1, 0).astype(np.float32))
    normalize = Normalize(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    expected = apply_ops([normalize, ToTensor()], image)
    np.testing.assert_array_equal(apply_ops([ToTensor(), normalize], image), expected)
    np.testing.assert_array_equal(apply_ops([normalize], image), expected)


NORMALIZE = st.builds(
    lambda n, seed, div255: Normalize(
        mean=tuple(np.random.default_rng(seed).normal(size=n).tolist()),
        std=tuple(np.random.default_rng(seed).uniform(0.1, 2, size=n).tolist()),
        div255=div255,
    ),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32),
    st.booleans(),
)
POINTWISE = st.lists(NORMALIZE | st.sampled_from([ToTensor(), DecodeImage()]), max_size=4)
SPATIAL = st.lists(
    st.sampled_from([Resize(size=(9, 14)), CenterCrop(crop_size=(5, 7)), Pad(pad_to_square=True)]),
    max_size=1,
)


@settings(max_examples=60, deadline=None)
@given(SPATIAL, POINTWISE)
def test_the_table_is_what_the_ops_do(spatial: list[ProcessOp], rest: list[ProcessOp]) -> None:
    ops = [DecodeImage(), *spatial, *rest]
    table = pointwise_table(ops, 3)
    assert table is not None
    assert table.dtype == np.float32
    assert table.shape == (3, 256)
    placed = photo(8, 12) if not spatial else spatial[0].apply(photo(8, 12))
    looked_up = np.stack([table[c][placed[..., c]] for c in range(3)])
    np.testing.assert_array_equal(looked_up, apply_ops(ops, photo(8, 12)))


@pytest.mark.parametrize(
    "ops",
    [
        [CvtColor(code="COLOR_RGB2BGR")],
        [ChannelSplit(index=0)],
        [DecodeImage(cv2_flags=0)],
        [Normalize(), Resize(size=(4, 4))],
        [ToTensor(), Pad(pad_to_square=True)],
    ],
)
def test_there_is_no_table_for_what_is_not_pointwise(ops: list[ProcessOp]) -> None:
    assert pointwise_table(ops, 3) is None


BYTES = st.lists(
    st.sampled_from(
        [
            Resize(size=(9, 14), interpolation="bicubic"),
            CenterCrop(crop_size=(5, 7)),
            Pad(pad_to_square=True),
            CvtColor(code="COLOR_RGB2BGR"),
            CvtColor(code="COLOR_RGB2YCrCb"),
            DecodeImage(),
        ]
    ),
    max_size=4,
)
DROPPED = st.sampled_from([[], [ChannelSplit(index=2)], [DecodeImage(cv2_flags=0)]])


@settings(max_examples=60, deadline=None)
@given(BYTES, DROPPED, st.lists(st.sampled_from([Normalize(), ToTensor()]), max_size=2), st.data())
def test_the_values_of_bytes_are_all_that_can_come(
    first: list[ProcessOp], dropped: list[ProcessOp], scaled: list[ProcessOp], data: st.DataObject
) -> None:
    mean = (0.2, 0.5, 0.9) if not dropped else (0.3,)
    ops = [*first, *dropped, *scaled, Normalize(mean=mean, std=(0.25,), div255=False)]
    if not dropped:
        swap, split = CvtColor(code="COLOR_RGB2BGR"), ChannelSplit(index=0)
        ops += data.draw(st.sampled_from([[], [swap], [swap, split], [split]]))
    table = byte_values(ops)
    assert table is not None
    made = apply_ops(ops, photo(8, 12))
    assert table.shape == (len(made), 256)
    assert all(np.isin(made[c], table[c]).all() for c in range(len(made)))
    flat = [np.full((8, 12, 3), level, np.uint8) for level in (0, 255)]
    if not any(isinstance(op, CvtColor) and op.code == "COLOR_RGB2YCrCb" for op in first):
        lowest, highest = (apply_ops(ops, image).max(axis=(1, 2)) for image in flat)
        np.testing.assert_array_equal(lowest, table.min(axis=1))
        np.testing.assert_array_equal(highest, table.max(axis=1))


@pytest.mark.parametrize(
    "late",
    [
        Resize(size=(4, 4)),
        Pad(pad_to_square=True),
        CvtColor(code="COLOR_RGB2YCrCb"),
        DecodeImage(cv2_flags=0),
    ],
)
def test_what_mixes_float_values_leaves_them_unknown(late: ProcessOp) -> None:
    assert byte_values([Normalize(), late]) is None


@settings(max_examples=60, deadline=None)
@given(BYTES, DROPPED, st.sampled_from([[], [Normalize(mean=(0.1,) * 3, std=(1.0,))]]))
def test_the_channels_are_those_of_any_image(
    first: list[ProcessOp], dropped: list[ProcessOp], scaled: list[ProcessOp]
) -> None:
    ops = [*first, *dropped, *scaled]
    for size in ((8, 12), (40, 30)):
        try:
            made = len(apply_ops(ops, photo(*size)))
        except ProcessOpError as error:
            if "CenterCrop" not in error.what:
                with pytest.raises(ProcessOpError, match=re.escape(error.what)):
                    images.channels(ops)
        else:
            assert images.channels(ops) == made


def test_a_crop_is_compared_with_what_comes_before_it() -> None:
    crop, late = CenterCrop(crop_size=(5, 7)), CenterCrop(crop_size=(7, 7))
    assert images.channels([crop]) == 3
    assert images.channels([Resize(size=(9, -1)), late]) == 3
    assert images.channels([crop, Pad(pad_to_square=True), late]) == 3
    for before in ([crop], [Resize(size=(6, 16))], [crop, Pad(pad_to_square=False)]):
        with pytest.raises(ProcessOpError, match="CenterCrop to 7 x 7"):
            images.channels([*before, late])


def test_warnings() -> None:
    assert images.warnings(parse(*BPP)) == ()
    swap = {"type": "CvtColor", "code": "COLOR_BGR2RGB"}
    assert "DecodeImage yields RGB" in images.warnings(parse({"type": "DecodeImage"}, swap))[0]
    assert images.warnings(parse(swap)) == ()
    resize = {"type": "Resize", "size": [4, 4], "adaptive_side": "long"}
    assert "has no effect" in images.warnings(parse(resize))[0]
    assert "taken as" in images.warnings(parse({"type": "Normalize", "div255": True}))[0]
    both = {"type": "Normalize", "norm_type": None, "mean": [0.5], "std": [0.5]}
    assert "given and applied" in images.warnings(parse(both))[0]
    assert images.warnings(parse({"type": "Normalize", "mean": [0.5], "std": [0.5]})) == ()


@pytest.mark.parametrize(
    ("op", "key"),
    [
        ({"type": "Resise"}, "type"),
        ({"type": "Resize"}, "size"),
        ({"type": "Resize", "size": [0, 4]}, "size"),
        ({"type": "Resize", "size": [-1, 4]}, "size"),
        ({"type": "Resize", "size": [4, 4, 4]}, "size"),
        ({"type": "Resize", "size": "4"}, "size"),
        ({"type": "Resize", "size": True}, "size"),
        ({"type": "Resize", "size": [4, 10**9]}, "size"),
        ({"type": "Resize", "size": [4, 4], "sise": 1}, "sise"),
        ({"type": "Resize", "size": [4, 4], "interpolation": "box"}, "no interpolation box"),
        ({"type": "Resize", "size": 4, "backend": "pillow", "interpolation": "area"}, "area"),
        ({"type": "Normalize", "mean": [0.5]}, "mean and std belong together"),
        ({"type": "Normalize", "mean": [0.5], "std": [0]}, "std must not be zero"),
        ({"type": "Normalize", "mean": [float("nan")], "std": [1]}, "mean"),
        ({"type": "Normalize", "mean": ["a"], "std": [1]}, "mean"),
        ({"type": "Normalize", "norm_type": "div255"}, "norm_type"),
        ({"type": "CvtColor", "code": "COLOR_RGB2HSV"}, "code"),
        ({"type": "DecodeImage", "cv2_flags": 2}, "cv2_flags"),
        ({"type": "ChannelSplit", "index": -1}, "index"),
        ({"type": "Pad", "pad_to_square": "yes"}, "pad_to_square"),
    ],
)
def test_arguments_are_checked(op: dict[str, object], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        parse(op)


def test_ops_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Resize(size=(4, 4)).backend = "pillow"


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
