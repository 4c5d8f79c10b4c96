from __future__ import annotations

from pathlib import Path

import pytest

from calib.errors import WorkbenchError
from compiler import judges, spec, target
from compiler.errors import CapabilityError, FrontendError, SpecError, UnknownKeyError
from tests.compiler.conftest import tiny_spec

CONFIGS = Path(__file__).parents[2] / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return path


MINIMAL = """\
name: net
frontend:
  checkpoint: net.onnx
  shape: {input: [1, 3, 8, 8]}
backend:
  dtype: int8
"""


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_int8.yaml")), ids=lambda p: p.stem)
def test_shipped_specs_are_buildable(path: Path) -> None:
    file = spec.load(path)
    assert file.spec.name == path.stem
    assert judges.check(file, target.load(file)) == ()
    assert file.no_effect == ("backend.compile.data_transport_mode",)


def test_defaults_where_a_vendor_spec_is_silent(tmp_path: Path) -> None:
    loaded = spec.load(write(tmp_path, MINIMAL)).spec
    assert loaded.backend.target == "vacc"
    assert loaded.verify.hr is None
    assert loaded.verify.gate.psnr_drop_db is None


@pytest.mark.parametrize(
    ("old", "new", "kind", "line", "words"),
    [
        ("dtype: int8", "dtipe: int8", UnknownKeyError, 6, "did you mean 'dtype'"),
        ("dtype: int8", "dtype: 8", SpecError, 6, "string"),
        ("name: net", "name: a/b", SpecError, 1, "a/b"),
        ("name: net", "name: ..", SpecError, 1, ".."),
        ("name: net\n", "", SpecError, None, "'name' is missing"),
        ("[1, 3, 8, 8]", "[1, 3, 0, 8]", SpecError, 4, "greater than"),
        ("[1, 3, 8, 8]", "[1, three]", SpecError, 4, "three"),
        ("checkpoint: net.onnx", "chekpoint: net.onnx", UnknownKeyError, 3, "'checkpoint'"),
        (
            "dtype: int8",
            "dtype: int8\n  quantize: {alibrate_mode: max}",
            UnknownKeyError,
            7,
            "did you mean 'calibrate_mode'",
        ),
        (
            "dtype: int8",
            "dtype: int8\n  quantize:\n    calibrate_mode: percentil",
            SpecError,
            8,
            "did you mean 'percentile'",
        ),
        (
            "backend:",
            "dataset:\n  process_ops:\n    - {type: Resize, size: [8, 8], siez: 1}\nbackend:",
            UnknownKeyError,
            7,
            "siez",
        ),
    ],
)
def test_faults_name_line_key_and_fix(
    tmp_path: Path, old: str, new: str, kind: type[SpecError], line: int | None, words: str
) -> None:
    path = write(tmp_path, MINIMAL.replace(old, new))
    found, errors = spec.check(path)
    assert found is None
    error = errors[0]
    assert (type(error), error.line) == (kind, line)
    assert words in error.what
    assert error.fix
    with pytest.raises(SpecError):
        spec.load(path)


def test_check_lists_every_fault_in_file_order(tmp_path: Path) -> None:
    text = MINIMAL.replace("name: net", "name: net\nnme: x").replace("int8", "8")
    _, errors = spec.check(write(tmp_path, text))
    assert [e.line for e in errors] == [2, 7]


def test_overrides_replace_and_add(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    file = spec.load(path, ("backend.quantize.calibrate_mode=mse", "name=other"))
    assert file.spec.backend.quantize.calibrate_mode == "mse"
    assert file.spec.name == "other"
    for bad in ("x", "=1", "name.x=1", "backend.nope=1", "a..b=1"):
        with pytest.raises(SpecError):
            spec.load(path, (bad,))


def test_fp16_is_refused_and_names_the_operator(tmp_path: Path) -> None:
    path = tiny_spec(tmp_path, backend__dtype="fp16", dataset=None)
    file = spec.load(path)
    (error,) = judges.check(file, target.load(file))
    assert isinstance(error, CapabilityError)
    assert "builds int8 only" in error.what
    assert "DepthToSpace (PixelShuffle), node" in error.what
    assert error.line == file.document.line(("backend", "dtype"))
    assert "dtype: int8" in error.fix


def test_fp16_is_refused_without_the_checkpoint() -> None:
    file = spec.load(CONFIGS / "bpp3x_fp16.yaml", ("frontend.checkpoint=absent.onnx",))
    (error,) = judges.check(file, target.load(file))
    assert error.line is not None
    assert "PixelShuffle" not in error.what


@pytest.mark.parametrize("frontend", ["huggingface", "keras", "tensorflow", "darknet"])
def test_other_frontends_are_refused_with_the_way_out(tmp_path: Path, frontend: str) -> None:
    file = spec.load(tiny_spec(tmp_path, frontend__type=frontend))
    (error,) = judges.check(file, target.load(file))
    assert isinstance(error, FrontendError)
    assert "ONNX" in error.fix or "onnx" in error.fix


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("backend__quantize__exclude_layers", ["conv0"], "exclude_layers"),
        ("backend__quantize__skip_conv_layers", [0], "skip_conv_layers"),
        ("graph", {"extra_ops": {"type": "yolov5_nms", "params": {"k": 1}}}, "yolov5_nms"),
        ("backend__type", "tvm_other", "tvm_other"),
    ],
)
def test_what_the_target_cannot_do_is_refused(
    tmp_path: Path, key: str, value: object, words: str
) -> None:
    file = spec.load(tiny_spec(tmp_path, **{key: value}))
    (error,) = judges.check(file, target.load(file))
    assert words in error.what
    assert error.fix


def test_an_unknown_target_is_named(tmp_path: Path) -> None:
    file = spec.load(tiny_spec(tmp_path, backend__target="vac"))
    with pytest.raises(SpecError, match="no target 'vac'") as caught:
        target.load(file)
    assert "vacc" in caught.value.fix


def test_a_bad_target_file_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "t.yaml"
    bad.write_text("name: t\ndtypes: int8\n", encoding="utf-8")
    file = spec.load(tiny_spec(tmp_path, backend__target=str(bad)))
    with pytest.raises(WorkbenchError, match="target file"):
        target.load(file)
