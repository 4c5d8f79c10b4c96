"""Two bundles compared: real ones, and sides with known differences."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from calib.errors import DataError
from calib.table import CalibrationTable
from compiler import bundle, pipeline, qdq, spec
from compiler.diff import Limits, Side, changes, compare, read
from compiler.progress import silent
from tests.compiler.conftest import tiny_spec
from tests.compiler.test_commands import command


@pytest.fixture(scope="module")
def before(tiny_build: pipeline.Result) -> Path:
    assert tiny_build.bundle is not None
    return tiny_build.bundle


@pytest.fixture(scope="module")
def after(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, calibrated otherwise."""
    out = tmp_path_factory.mktemp("after")
    quantize = {"calibrate_mode": "percentile", "calibrate_range": 0.99}
    path = tiny_spec(tiny_folder, backend__quantize=quantize)
    built = pipeline.run(spec.load(path), silent(), out=out).bundle
    assert built is not None
    return built


@pytest.fixture(scope="module")
def side(before: Path) -> Side:
    return read(before)


def test_a_bundle_equals_itself(before: Path, tmp_path: Path) -> None:
    report = tmp_path / "diff.json"
    limits = ("--max-drop-db", 0, "--max-ssim-drop", 0, "--max-slowdown-percent", 0)
    done = command("diff", before, before, *limits, "--json", report)
    assert done.returncode == 0, done.stderr
    assert "the same bytes" in done.stdout
    found = json.loads(report.read_text())
    assert found["same"]
    assert found["spec"] == found["scales"] == found["weights"] == found["files"] == []
    assert all(s["change"] == s["low"] == s["high"] == 0 for s in found["accuracy"])
    assert found["latency"]["percent"] == 0


def test_what_changed_is_told(before: Path, after: Path) -> None:
    found = compare(read(before), read(after), Limits())
    assert [(c.key, c.a, c.b) for c in found.spec] == [
        ("backend.quantize.calibrate_mode", "max", "percentile"),
        ("backend.quantize.calibrate_range", 0.99999, 0.99),
    ]
    assert found.tools == ()
    assert {"qdq.onnx", "spec.yaml", "mod.so"} <= {c.key for c in found.files}
    assert "fp32.onnx" not in {c.key for c in found.files}
    nets = [qdq.read(onnx.load(path / "qdq.onnx")) for path in (before, after)]
    for change in found.scales:
        a, b = (net.tensors[change.tensor].q.scale for net in nets)
        assert change.relative == pytest.approx((b - a) / a)
    sizes = [abs(c.relative or 0) for c in found.scales]
    assert sizes == sorted(sizes, reverse=True)
    for change in found.weights:
        a, b = (next(c for c in net.convs if c.name == change.layer) for net in nets)
        assert change.changed == (a.weight != b.weight).sum() == 0  # the method moves scales only
        assert change.biases == (a.bias != b.bias).sum() > 0


def test_accuracy_is_that_of_the_bundles(before: Path, after: Path) -> None:
    found = compare(read(before), read(after), Limits())
    assert found.paired
    a, b = (json.loads((path / "accuracy.json").read_text()) for path in (before, after))
    (psnr,) = (s for s in found.accuracy if s.metric == "psnr_rgb_db")
    change = b["int8"]["psnr_db"]["rgb"] - a["int8"]["psnr_db"]["rgb"]
    assert psnr.change == pytest.approx(change, abs=2e-6)  # the csv has six decimals
    assert psnr.low is not None
    assert psnr.high is not None
    assert psnr.low <= psnr.change <= psnr.high
    assert psnr.drop == pytest.approx(-psnr.change, abs=2e-6)  # fp32 is the same


def test_limits_decide_the_status(before: Path, after: Path) -> None:
    found = compare(read(before), read(after), Limits())
    loss = -next(s.change for s in found.accuracy if s.metric == "psnr_rgb_db")
    pairs = ((before, after), (after, before))
    worse = pairs[0] if loss > 0 else pairs[1]
    limit = abs(loss)
    assert command("diff", *worse, "--max-drop-db", 0.9 * limit).returncode == 1
    assert command("diff", *worse, "--max-drop-db", 1.1 * limit).returncode == 0
    assert command("diff", *worse).returncode == 0
    done = command("diff", *worse, "--max-drop-db", 0.9 * limit, "--quiet")
    assert "regression: PSNR falls by" in done.stdout


def test_paired_interval_of_a_constant_change(side: Side) -> None:
    """All images lose 0.25 dB: the interval is that point, however far apart the images are."""
    lower = {
        image: {k: v - 0.25 if k == "int8_psnr_rgb_db" else v for k, v in row.items()}
        for image, row in side.scores.items()
    }
    found = compare(side, replace(side, scores=lower), Limits(drop_db=0.2))
    change = found.accuracy[0]
    assert (change.change, change.low, change.high) == pytest.approx((-0.25,) * 3)
    assert change.drop == pytest.approx(0.25)
    assert found.regressions == ("PSNR falls by 0.2500 dB, more than 0.2 dB",)


def test_other_images_are_no_pairs(side: Side) -> None:
    names = {f"other {image}": row for image, row in side.scores.items()}
    pictures = {i: row | {"bicubic_ssim_rgb": 0.5} for i, row in side.scores.items()}
    protocol = replace(side, accuracy=dict(side.accuracy) | {"protocol": "vendor"})
    for other in (replace(side, scores=names), replace(side, scores=pictures), protocol):
        found = compare(side, other, Limits())
        assert not found.paired
        assert found.accuracy[0].low is None
        with pytest.raises(DataError, match="different images"):
            compare(side, other, Limits(drop_db=1))


def slower(side: Side, factor: float, **machine: object) -> Side:
    assert side.latency is not None
    library = dict(side.latency["library"])
    library["median_ms"] *= factor
    found = dict(side.latency) | {"library": library}
    return replace(side, latency=found | {"machine": dict(side.latency["machine"]) | machine})


def test_slowdown(side: Side) -> None:
    assert compare(side, slower(side, 1.04), Limits(slowdown_percent=5)).regressions == ()
    (words,) = compare(side, slower(side, 1.06), Limits(slowdown_percent=5)).regressions
    assert words == "a frame takes 6.0 % longer, more than 5 %"
    other = slower(side, 0.5, processor="another")
    latency = compare(side, other, Limits()).latency
    assert latency is not None
    assert not latency.comparable
    with pytest.raises(DataError, match="two machines"):
        compare(side, other, Limits(slowdown_percent=5))
    with pytest.raises(DataError, match="not measured"):
        compare(side, replace(side, latency=None), Limits(slowdown_percent=5))


def test_tensors_and_layers_of_one_side(side: Side) -> None:
    name = next(iter(side.table))
    table = CalibrationTable({n: side.table[n] for n in side.table if n != name})
    ops = tuple(op for op in side.net.ops if op is not side.net.convs[0])
    other = replace(side, table=table, net=replace(side.net, ops=ops))
    found = compare(side, other, Limits())
    assert [(c.tensor, c.b, c.relative) for c in found.scales] == [(name, None, None)]
    assert [(c.layer, c.changed) for c in found.weights] == [(side.net.convs[0].name, None)]


def test_flat_keys() -> None:
    assert changes.flat({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {
        "a.b": 1,
        "a.c": [1, 2],
        "d": None,
    }


def test_bad_input_is_status_2(before: Path, tmp_path: Path) -> None:
    assert command("diff", before, tmp_path / "absent").returncode == 2
    assert command("diff", before, before, "--max-drop-db", "nan").returncode == 2
    shutil.copytree(before, tmp_path / "touched")
    (tmp_path / "touched" / "accuracy.csv").write_text("image\n")
    done = command("diff", before, tmp_path / "touched")
    assert done.returncode == 2
    assert "accuracy.csv" in done.stderr


def test_the_same_answer_twice(before: Path, after: Path) -> None:
    first, second = (command("diff", before, after, "--json", "-").stdout for _ in (0, 1))
    assert first == second
    assert bundle.MANIFEST not in first
