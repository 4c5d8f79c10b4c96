from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from calib.errors import DataError
from calib.images import read_image, read_npz
from compiler import check, pipeline, spec, vendor
from compiler.progress import silent
from tests.compiler.conftest import SIZE, tiny_spec

DECODE, TENSOR = {"type": "DecodeImage"}, {"type": "ToTensor"}


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
