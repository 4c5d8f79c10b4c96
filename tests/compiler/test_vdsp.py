"""compiler.vdsp: the vendor's fused operator, step by step."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from calib.errors import ProcessOpError
from calib.images import ProcessOp
from compiler import vdsp

DECODE, TENSOR = {"type": "DecodeImage"}, {"type": "ToTensor"}
PLAIN = {"type": "Normalize", "norm_type": None}


def ops(*steps: dict[str, Any]) -> list[Any]:
    return TypeAdapter(list[ProcessOp]).validate_python([DECODE, *steps, TENSOR])


def params(size: tuple[int, int], *steps: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    found = vdsp.params(ops(*steps), size)
    return found["OpType"], found["OpConfig"]


def test_the_published_operator_of_bicubic_plus_plus() -> None:
    kind, config = params((1080, 1920), {"type": "Resize", "size": [1080, 1920]}, PLAIN)
    assert kind == "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR"
    assert config == {
        "IimageFormat": "RGB_PLANAR",
        "IimageWidth": 1920,
        "IimageHeight": 1080,
        "OimageWidth": 1920,
        "OimageHeight": 1080,
        "IimageWidthPitch": 1920,
        "IimageHeightPitch": 1080,
        "Mean": [0.0, 0.0, 0.0],
        "Std": [1.0, 1.0, 1.0],
        "NormaType": "DIV255",
        "ColorCvtCode": "NO_CHANGE",
        "ResizeType": "BILINEAR_CV",
    }


def test_crop_colour_and_mean() -> None:
    kind, config = params(
        (224, 224),
        {"type": "CvtColor", "code": "COLOR_RGB2BGR"},
        {"type": "Resize", "size": 256},
        {"type": "CenterCrop", "crop_size": 224},
        {"type": "Normalize", "div255": False, "mean": [103.939, 116.779, 123.68], "std": [1] * 3},
    )
    assert kind == "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR"
    assert (config["CropX"], config["CropY"]) == (16, 16)
    assert (config["IimageWidth"], config["ResizeWidth"], config["OimageWidth"]) == (256, 256, 224)
    assert config["Mean"] == [103.9375, 116.75, 123.6875]  # binary16
    assert (config["NormaType"], config["ColorCvtCode"]) == ("MINUSMEAN_DIVSTD", "RGB2BGR")


def test_letterbox() -> None:
    resize = {"type": "Resize", "size": [640, -1], "adaptive_side": "long"}
    kind, config = params((640, 640), resize, {"type": "Pad", "pad_to_square": True}, PLAIN)
    assert kind == "FUSION_OP_RGB_LETTERBOX_CVTCOLOR_NORM_TENSOR"
    assert (config["OimageWidth"], config["NormaType"]) == (640, "DIV255")


@pytest.mark.parametrize(
    ("step", "key", "expected"),
    [
        ({"type": "Normalize", "mean": 0.5, "std": 0.5}, "NormaType", "DIV255_MINUSMEAN_DIVSTD"),
        ({"type": "Normalize", "mean": 0.5, "std": 0.5}, "Mean", [0.5, 0.5, 0.5]),
        ({"type": "Normalize", "div255": False}, "NormaType", "EQUAL"),
        ({"type": "CvtColor", "code": "COLOR_BGR2RGB"}, "ColorCvtCode", "BGR2RGB"),
        ({"type": "CvtColor", "code": "COLOR_BGR2RGB"}, "NormaType", "EQUAL"),
        ({"type": "Resize", "size": 8, "backend": "pillow"}, "ResizeType", "BILINEAR_PILLOW"),
        ({"type": "Resize", "size": 8, "interpolation": "lanczos"}, "ResizeType", "LANCZOS_CV"),
    ],
)
def test_each_value(step: dict[str, Any], key: str, expected: object) -> None:
    assert params((8, 8), step)[1][key] == expected


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"type": "ChannelSplit", "index": 0}], "one channel"),
        ([{"type": "CvtColor", "code": "COLOR_RGB2YCrCb"}], "COLOR_RGB2YCrCb"),
        ([{"type": "Resize", "size": 8}, {"type": "Resize", "size": 16}], "a second Resize"),
        ([PLAIN, {"type": "Resize", "size": 8}], "Resize after Normalize"),
        ([{"type": "CenterCrop", "crop_size": 4}, {"type": "Resize", "size": 8}], "CenterCrop"),
        ([{"type": "Resize", "size": [8, -1]}], "without Pad"),
        ([{"type": "Resize", "size": 8, "interpolation": "area"}], "area"),
    ],
)
def test_what_has_no_counterpart_is_refused(steps: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ProcessOpError, match=words):
        params((8, 8), *steps)
