"""The whole build on a tiny network: what it leaves, what it repeats, and how it fails."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import compiler
from calib.errors import WorkbenchError
from calib.images import read_image, write_image
from compiler import bundle, calibrate, host, pipeline, qdq, reference, spec, vectors, verify
from compiler.errors import BundleError, NotBitExactError
from compiler.progress import Reporter, silent
from compiler.recovery import auto
from compiler.schema import Verify
from tests import graphs
from tests.compiler.conftest import photograph, tiny_spec

DETERMINISTIC = {
    "accuracy.csv",
    "accuracy.json",
    "calibration.json",
    "equalization.json",
    "fp32.onnx",
    "golden",
    "manifest.json",
    "manifest.sha256",
    "mod.so",
    "network.json",
    "provenance.json",
    "qdq.onnx",
    "spec.yaml",
    "vdsp_params.json",
    "vendor.yaml",
} | ({"mod.portable.so"} if host.detect().isa != "portable" else set())


def built(tiny_build: pipeline.Result) -> Path:
    assert tiny_build.bundle is not None
    return tiny_build.bundle


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "measured" not in p.parts
    }


def test_the_bundle_is_complete(tiny_build: pipeline.Result) -> None:
    folder = built(tiny_build)
    assert {p.name for p in folder.iterdir()} == DETERMINISTIC | {"measured"}
    accuracy = json.loads((folder / "accuracy.json").read_text())
    assert accuracy["bit_exact"]["equal"]
    assert accuracy["bit_exact"]["images"] == 4  # three images, and mod.so itself
    assert accuracy["gate"]["passed"]
    network = json.loads((folder / "network.json").read_text())
    assert network["macs"] == sum(layer["macs"] for layer in network["layers"]) > 0
    latency = json.loads((folder / "measured" / "latency.json").read_text())
    assert latency["input_shape"] == [1, 3, 32, 48]
    assert set(latency["library"]) == {"median_ms", "p10_ms", "p90_ms", "runs"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["calibration"]["images"]) == 3
    assert set(manifest["files"]) >= DETERMINISTIC - {"golden", "manifest.json", "manifest.sha256"}


def test_nothing_temporary_is_left(tiny_build: pipeline.Result) -> None:
    parent = built(tiny_build).parent
    assert sorted(p.name for p in parent.iterdir()) == [".store", "tiny"]


def test_a_fresh_build_gives_the_same_bytes(
    tiny_build: pipeline.Result, tiny_folder: Path, tmp_path: Path
) -> None:
    again = pipeline.run(spec.load(tiny_spec(tiny_folder)), silent(), out=tmp_path, fresh=True)
    assert files(built(again)) == files(built(tiny_build))


def test_the_qdq_file_is_the_network(tiny_build: pipeline.Result) -> None:
    loaded = bundle.load(built(tiny_build)).engine.net
    x = vectors.small_input(3)
    assert tiny_build.net is not None
    np.testing.assert_array_equal(reference.run(loaded, x), reference.run(tiny_build.net, x))
    golden = np.load(built(tiny_build) / "golden" / "output.npy")
    np.testing.assert_array_equal(reference.run(loaded, x)[0], golden)


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1), (2, 61)])
def test_load_equals_golden_at_any_size(tiny_build: pipeline.Result, size: tuple[int, int]) -> None:
    net, golden = compiler.load(built(tiny_build)), compiler.golden(built(tiny_build))
    x = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    y = net(x)
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    np.testing.assert_array_equal(y, golden(x))
    frame = photograph(3, *size)
    upscaled = net(frame)
    assert (upscaled.dtype, upscaled.shape) == (np.uint8, (2 * size[0], 2 * size[1], 3))
    np.testing.assert_array_equal(upscaled, golden(frame))


def test_load_refuses_other_arrays(tiny_build: pipeline.Result) -> None:
    net = compiler.load(str(built(tiny_build)))
    for bad in (np.zeros((1, 4, 8, 8), np.float32), np.zeros((1, 3, 8, 8)), np.zeros(3, np.uint8)):
        with pytest.raises(WorkbenchError, match="the input is"):
            net(bad)
    with pytest.raises(WorkbenchError, match=r"the frame is uint8 \[8, 8, 1\]"):
        net(np.zeros((8, 8, 1), np.uint8))


@pytest.mark.parametrize(
    "changes",
    [
        {"backend__output__dtype": "uint8"},
        {"backend__input__dtype": "uint8", "backend__output__dtype": "uint8"},
        {"backend__target": "vacc-asym"},
        {"backend__quantize__weight_scale": "power2"},
        {"backend__quantize__quantize_per_channel": False},
        {"backend__quantize__calibrate_mode": "kl_divergence"},
        {"backend__compile__host__isa": "portable", "backend__compile__host__threads": 1},
        {"verify__protocol": "vendor"},
    ],
    ids=lambda c: "-".join(f"{k.split('__')[-1]}={v}" for k, v in c.items()),
)
def test_variants_are_bit_exact(tiny_folder: Path, changes: dict[str, object]) -> None:
    file = spec.load(tiny_spec(tiny_folder, name="variant", **changes))
    result = pipeline.run(file, silent(), out=tiny_folder / "others")
    assert result.accuracy is not None
    assert result.accuracy.bit_exact.equal


def test_a_missed_gate_still_leaves_a_complete_bundle(tiny_folder: Path) -> None:
    file = spec.load(tiny_spec(tiny_folder, verify__gate={"psnr_drop_db": -50.0}))
    result = pipeline.run(file, silent(), out=tiny_folder / "others")
    assert result.accuracy is not None
    assert not result.accuracy.gate.passed
    assert bundle.check(built(result))


@pytest.mark.parametrize("stage", pipeline.STAGES[:-1])
def test_until_stops_before_the_bundle(tiny_folder: Path, stage: str) -> None:
    result = pipeline.run(
        spec.load(tiny_spec(tiny_folder)), silent(), out=tiny_folder / "others", until=stage
    )
    assert result.bundle is None
    assert list(result.seconds) == list(pipeline.STAGES[: pipeline.STAGES.index(stage) + 1])


def test_calibration_images_are_not_verified_on(tiny_folder: Path, tmp_path: Path) -> None:
    tiny_spec(tiny_folder)
    hr = tmp_path / "hr"
    shutil.copytree(tiny_folder / "hr", hr)
    lr = tmp_path / "lr"
    for path in hr.iterdir():
        write_image(lr / path.name, _half(path))
    mixed = tmp_path / "calibration"
    shutil.copytree(tiny_folder / "calibration", mixed)
    shutil.copy(lr / "1.png", mixed / "z.png")
    changes = {"dataset__path": str(mixed), "verify__hr": str(hr), "verify__lr": str(lr)}
    result = pipeline.run(spec.load(tiny_spec(tiny_folder, **changes)), silent(), out=tmp_path)
    assert result.accuracy is not None
    assert result.accuracy.excluded == 1
    assert [i.name for i in result.accuracy.images] == ["0", "2"]


def _half(path: Path) -> np.ndarray:
    from calib import bicubic

    return bicubic.downscale(bicubic.crop_to_multiple(read_image(path), 2), 2)


BAD = {
    "no calibration images": ({"dataset__path": "EMPTY"}, "no "),
    "no dataset": ({"dataset": None}, "dataset"),
    "missing checkpoint": ({"frontend__checkpoint": "absent.onnx"}, "cannot be read"),
    "wrong input name": ({"frontend__shape": {"x": [1, 3, 32, 48]}}, "inputs are ['input']"),
    "wrong channels": ({"frontend__shape": {"input": [1, 1, 32, 48]}}, "3 channels"),
    "wrong rank": ({"frontend__shape": {"input": [3, 32, 48]}}, "3 dimensions"),
    "batch": ({"frontend__shape": {"input": [2, 3, 32, 48]}}, "batch"),
    "all images calibrated on": ({"verify__hr": "CALIBRATION", "verify__lr": None}, ""),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_is_one_clear_error(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    changes, words = BAD[name]
    tiny_spec(tiny_folder)  # makes the images, whichever test comes first
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "CALIBRATION": str(tiny_folder / "calibration")}
    changes = {k: places.get(v, v) if isinstance(v, str) else v for k, v in changes.items()}
    if name == "all images calibrated on":
        changes["dataset__path"] = str(_halves(tiny_folder / "calibration", tmp_path / "lr"))
    out = tmp_path / "out"
    with pytest.raises(WorkbenchError) as caught:
        pipeline.run(spec.load(tiny_spec(tiny_folder, **changes)), silent(), out=out)
    assert words.lower() in str(caught.value).lower()
    assert caught.value.fix
    assert [p.name for p in out.glob("*") if p.name != ".store"] == []


def _halves(source: Path, target: Path) -> Path:
    for path in source.iterdir():
        write_image(target / path.name, _half(path))
    return target


@pytest.mark.parametrize(
    ("kind", "accepted"), [("truncated", False), ("text", False), ("grey", True), ("deep", True)]
)
def test_unusual_calibration_images(
    tiny_folder: Path, tmp_path: Path, kind: str, accepted: bool
) -> None:
    import cv2

    folder = tmp_path / "images"
    folder.mkdir()
    target = folder / "a.png"
    grey = photograph(0, 40, 56)[..., 0]
    if kind == "text":
        target.write_text("no image")
    else:
        pixels = grey.astype(np.uint16) * 257 if kind == "deep" else grey
        cv2.imwrite(str(target), pixels)
    if kind == "truncated":
        target.write_bytes(target.read_bytes()[:-40])
    run: Callable[[], pipeline.Result] = lambda: pipeline.run(  # noqa: E731
        spec.load(tiny_spec(tiny_folder, dataset__path=str(folder))),
        silent(),
        out=tmp_path / "out",
        until="calibrate",
    )
    if accepted:
        assert run().table is not None
    else:
        with pytest.raises(WorkbenchError) as caught:
            run()
        assert "a.png" in caught.value.where


@pytest.mark.parametrize("name", [*sorted(DETERMINISTIC - {"golden"}), "golden/output.npy"])
def test_a_changed_byte_is_found_and_named(
    tiny_build: pipeline.Result, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built(tiny_build), copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(bytes(content))
    with pytest.raises(BundleError) as caught:
        bundle.load(copy)
    expected = "manifest.json" if name.startswith("manifest") else name
    assert expected in caught.value.where or expected in caught.value.what


def test_missing_and_extra_files_are_found(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    for name, change in {"qdq.onnx": Path.unlink, "extra": Path.touch}.items():
        copy = tmp_path / name
        shutil.copytree(built(tiny_build), copy)
        change(copy / name)
        with pytest.raises(BundleError) as caught:
            bundle.load(copy)
        assert name in caught.value.where
    with pytest.raises(BundleError):
        bundle.load(tmp_path / "nothing")


def test_a_wrong_library_is_an_internal_error(tiny_build: pipeline.Result) -> None:
    golden = np.zeros((1, 3, 4, 4), np.float32)
    library = golden.copy()
    library[0, 1, 2, 3] = 1
    with pytest.raises(NotBitExactError, match="1 of 48 values") as caught:
        verify.require_equal(golden, library, "image a")
    assert caught.value.exit_code == 3


def test_verify_repeats_the_builds_figures(tiny_build: pipeline.Result) -> None:
    opened = bundle.load(built(tiny_build))
    before = files(opened.path)
    again, _ = verify.measure_engine(opened.engine, opened.spec.verify, silent())
    assert tiny_build.accuracy is not None
    assert again.to_json() == tiny_build.accuracy.to_json()
    assert files(opened.path) == before


def test_samples_stand_in_for_an_absent_set(tiny_build: pipeline.Result) -> None:
    _, dataset, warnings = verify.pairs_of(Verify(hr="absent/folder"), 2)
    assert dataset == "samples"
    assert "SAMPLE" in warnings[0]


def test_qdq_and_golden_agree_in_onnx_runtime(tiny_build: pipeline.Result) -> None:
    from compiler.runner import Session

    assert tiny_build.net is not None
    x = photograph(5, 32, 48).transpose(2, 0, 1)[None] / np.float32(255)
    golden = reference.run(tiny_build.net, x).astype(np.float64)
    outside = Session(qdq.write(tiny_build.net), optimize=False).run(x)
    assert -10 * np.log10(np.mean((golden - outside) ** 2)) >= 55


def test_calibrate_mode_auto_takes_the_method_of_least_output_error(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path = tiny_spec(tiny_folder, backend__quantize__calibrate_mode="auto")
    said = io.StringIO()
    reporter = Reporter(Console(file=said, width=200))
    result = pipeline.run(spec.load(path), reporter, out=tmp_path, until="calibrate")
    assert result.table is not None
    errors = dict(re.findall(r"(\S.*): squared output error (\S+)", said.getvalue()))
    assert list(errors) == [auto.label(m) for m in auto.CANDIDATES]
    best = min(errors, key=lambda label: float(errors[label]))
    methods = {result.table[name].method for name in result.table}
    assert methods == {"bytes", best.split()[0]}


def test_a_stored_choice_of_auto_computes_no_other_table(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spec.load(tiny_spec(tiny_folder, backend__quantize__calibrate_mode="auto"))
    first = pipeline.run(file, silent(), out=tmp_path, until="calibrate").table
    chosen: list[str] = []
    choose = calibrate.choose

    def counted(floats, observed, method, **options):
        chosen.append(auto.label(method))
        return choose(floats, observed, method, **options)

    monkeypatch.setattr(calibrate, "choose", counted)
    again = pipeline.run(file, silent(), out=tmp_path, until="calibrate").table
    assert first is not None
    assert again is not None
    assert again.to_json() == first.to_json()
    assert len(chosen) == 1


def test_the_range_of_luma_is_known_from_its_bytes(tmp_path: Path) -> None:
    """Grey photographs that are neither black nor white anywhere change nothing about it."""
    steps = [
        {"type": "DecodeImage"},
        {"type": "CvtColor", "code": "COLOR_RGB2YCrCb"},
        {"type": "ChannelSplit", "index": 0},
        {"type": "Normalize", "norm_type": None},
        {"type": "ToTensor"},
    ]
    path = tiny_spec(
        tmp_path, frontend__shape={"input": [1, 1, 32, 48]}, dataset__process_ops=steps
    )
    (tmp_path / "tiny.onnx").write_bytes(graphs.espcn(2).model().SerializeToString())
    for image in (tmp_path / "calibration").iterdir():
        write_image(image, np.full((40, 56, 3), 99, np.uint8))
    result = pipeline.run(spec.load(path), silent(), until="calibrate")
    assert result.table is not None
    known = result.table["input_q"]
    assert (known.method, known.high, known.max) == ("bytes", 1.0, np.float32(99) / np.float32(255))


def test_a_layer_that_recovery_adds_is_built_and_reported(tmp_path: Path) -> None:
    path = tiny_spec(tmp_path, backend__quantize__split_residuals=True)
    wide = graphs.bicubic_plusplus(3, channels=16)
    (tmp_path / "tiny.onnx").write_bytes(wide.model().SerializeToString())
    result = pipeline.run(spec.load(path), silent(), out=tmp_path / "out")
    assert result.net is not None
    assert len(result.net.convs) == len(result.stats.layers) + 1
    page = (built(result) / "measured" / "report.html").read_text()
    assert f"{result.net.convs[0].name}_residual" in page
