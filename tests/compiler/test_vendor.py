from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from calib.errors import DataError, ProcessOpError
from calib.images import ProcessOp, read_image, read_npz
from compiler import check, pipeline, spec, vendor
from compiler.progress import silent
from tests.compiler.conftest import SIZE, tiny_spec

DECODE, TENSOR = {"type": "DecodeImage"}, {"type": "ToTensor"}
PLAIN = {"type": "Normalize", "norm_type": None}


def ops(*steps: dict[str, Any]) -> list[Any]:
    return TypeAdapter(list[ProcessOp]).validate_python([DECODE, *steps, TENSOR])


def params(size: tuple[int, int], *steps: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    found = vendor.vdsp_params(ops(*steps), size)
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


def test_a_bundle_holds_both_and_its_spec_is_buildable(
    tiny_build: pipeline.Result, tmp_path: Path
) -> None:
    assert tiny_build.bundle is not None
    text = (tiny_build.bundle / vendor.SPEC).read_text()
    assert set(yaml.safe_load(text)) <= {"name", "frontend", "backend", "dataset", "workspace"}
    assert check.judge(tiny_build.bundle / vendor.SPEC).verdict == "buildable"
    assert yaml.safe_load(text)["dataset"]["process_ops"] == [
        {"type": "DecodeImage"},
        {"type": "Resize", "size": [32, 48]},  # the vendor's compiler knows one size
        {"type": "Normalize", "norm_type": None},
        {"type": "ToTensor"},
    ]
    assert json.loads((tiny_build.bundle / vendor.PARAMS).read_text())["OpConfig"]


def test_export(tiny_folder: Path, tmp_path: Path) -> None:
    path = tiny_spec(
        tiny_folder, dataset__process_ops=[DECODE, {"type": "Resize", "size": [*SIZE]}]
    )
    loaded = spec.load(path).spec
    out = tmp_path / "out"
    vendor.export(out, loaded, b"onnx", SIZE, 2, silent())
    names = (out / vendor.DATALIST).read_text().split()
    assert names == ["npz/0.npz", "npz/1.npz", "npz/2.npz"]
    for name in names:
        assert read_npz(out / name).shape == (*SIZE, 3)
    written = yaml.safe_load((out / vendor.SPEC).read_text())
    assert written["dataset"]["path"] == "images"
    assert written["dataset"]["sampler"] == {"suffix": "png", "get_data_num": 3}
    assert written["dataset"]["process_ops"][1] == {"type": "Resize", "size": [*SIZE]}
    original = read_image(tiny_folder / "calibration" / "1.png")
    np.testing.assert_array_equal(read_image(out / "images" / "1.png"), original)


def test_export_needs_the_images(tmp_path: Path) -> None:
    loaded = spec.load(tiny_spec(tmp_path, dataset__path=str(tmp_path / "absent"))).spec
    with pytest.raises(DataError):
        vendor.export(tmp_path / "out", loaded, b"", SIZE, 2, silent())
