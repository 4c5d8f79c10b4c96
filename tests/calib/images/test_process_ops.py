"""Every pre-processing step against cv2, Pillow and closed forms."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from calib.errors import ProcessOpError
from calib.images import (
    CenterCrop,
    DecodeImage,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
    read_image,
)
from tests.calib.images.test_files import encode, photo

ADAPTER: TypeAdapter[ProcessOp] = TypeAdapter(ProcessOp)


def parse(*ops: dict[str, object]) -> list[ProcessOp]:
    return [ADAPTER.validate_python(op) for op in ops]


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


def test_a_step_makes_no_more_pixels_than_an_image_may_have() -> None:
    with pytest.raises(ProcessOpError, match="Resize would make 16384 x 16384 of"):
        Resize(size=(16384, 16384)).apply(photo(8, 8))
    with pytest.raises(ProcessOpError, match="Pad would make 30000 x 30000 of"):
        Pad(pad_to_square=True).apply(np.zeros((1, 30000, 3), np.uint8))
