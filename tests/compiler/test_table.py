"""The published table: its figures, the marks, and that measuring happens once."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from calib.images import write_image
from compiler import published, spec, table, verify
from compiler.data import Pair
from compiler.progress import Reporter, silent
from compiler.published import ROWS, Entry, Measured, Published, Row
from tests.compiler.conftest import tiny_spec

MACS = {2: 17_169_408_000, 3: 26_127_360_000}  # of the published architecture at 1080p


def entry(rate: int = 3, *, comparable: bool = False) -> Entry:
    row = next(r for r in ROWS if r.model.startswith(f"{rate}x fp32"))
    vendor = Measured("vendor", "samples", 4, 0, comparable, 27.1234, 0.81)
    standard = Measured("standard", "samples", 4, 2, False, 31.0, 0.9)
    return Entry(row, "models/n.onnx", (1, 3, 1080, 1920), MACS[rate], 50_400, (vendor, standard))


def shown(*rows: Entry) -> str:
    out = io.StringIO()
    published.show(rows, Reporter(Console(file=out, width=100, soft_wrap=True)))
    return out.getvalue()


@pytest.mark.parametrize("rate", [2, 3])
def test_the_vendors_flops_are_ours_divided_by_nine_tenths(rate: int) -> None:
    row = entry(rate)
    assert row.flops_g == 2 * MACS[rate] / 1e9
    assert row.row.published.flops_g is not None
    assert row.vendor_flops_g == pytest.approx(row.row.published.flops_g, abs=0.001)


def test_published_rows() -> None:
    figures = [(r.model, r.published.psnr_db, r.published.ssim) for r in ROWS]
    assert figures == [
        ("2x fp32", 32.911, 0.775),
        ("2x int8 kl_divergence", 31.559, 0.751),
        ("3x fp32", 29.358, 0.885),
        ("3x int8 percentile", 28.210, 0.791),
    ]


def test_the_table_fits_and_says_what_it_shows() -> None:
    text = shown(*(replace(entry(int(row.model[0])), row=row) for row in ROWS))
    assert "…" not in text
    assert "2x int8 kl_divergence" in text
    assert max(map(len, text.splitlines())) <= 100
    for expected in ("29.358", "27.123*", "58.061", "52.255", "0.0504", "3x1080x1920"):
        assert expected in text
    flat = " ".join(text.split())
    assert "not comparable" in flat
    assert "divides 2 x MACs by 0.9e9; in that convention ours are 38.154 (2x), 58.061 (3x)" in flat
    assert "vendor: 4 images of samples; standard: 4 images of samples (2 more were" in flat


def test_a_comparable_figure_has_no_mark() -> None:
    text = shown(entry(comparable=True))
    assert "27.123*" not in text
    assert "31.000*" in text  # another protocol than the published one


def test_json_and_markdown_hold_the_same_figures() -> None:
    (row,) = published.to_json([entry()])["rows"]
    assert row["published"]["psnr_db"] == 29.358
    assert row["ours"]["macs"] == MACS[3]
    assert row["ours"]["vendor"]["comparable"] is False
    lines = published.to_markdown([entry()]).splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {8}
    assert "| 3x fp32 | published | 58.061 | 0.050 | 29.358 | 0.885 | 3x1080x1920 |" in lines


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("0801", (8, 2040), True), ("0802", (256, 256), False), ("baby", (8, 2040), False)],
)
def test_only_whole_images_of_div2k_are_comparable(
    tmp_path: Path, name: str, size: tuple[int, int], expected: bool
) -> None:
    path = tmp_path / f"{name}.png"
    write_image(path, np.zeros((*size, 3), np.uint8))
    assert table.is_div2k([Pair(name, path, None, 2)]) is expected


def test_builds_what_is_missing_and_measures_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_spec(tmp_path)
    row = Row("2x int8 max", path.stem, "int8", Published(None, None, 30.0, 0.8))
    rows = (row, replace(row, model="2x fp32", competitor="fp32"))
    first = table.entries(rows, tmp_path, silent())
    assert (tmp_path / "artifacts" / "tiny" / "manifest.json").is_file()
    assert [m.protocol for m in first[0].measured] == ["vendor", "standard"]
    assert first[0].measured[0].images == 3

    accuracy = json.loads((tmp_path / "artifacts" / "tiny" / "accuracy.json").read_text())
    assert first[0].measured[1].psnr_db == accuracy["int8"]["psnr_db"]["rgb"]
    assert first[1].measured[1].psnr_db == accuracy["fp32"]["psnr_db"]["rgb"]

    monkeypatch.setattr(verify, "measure_engine", None)  # a second measurement would fail
    monkeypatch.setattr("compiler.pipeline.run", None)
    assert table.entries(rows, tmp_path, silent()) == first


def test_another_spec_or_model_makes_a_bundle_out_of_date(
    tiny_folder: Path, tiny_build: object
) -> None:
    from compiler import bundle

    built = bundle.load(tiny_folder / "artifacts" / "tiny")
    same = tiny_spec(tiny_folder)
    assert table._is_current(built, spec.load(same))
    other = tiny_spec(tiny_folder, backend__quantize__calibrate_mode="mse")
    assert not table._is_current(built, spec.load(other))
    gone = tiny_spec(tiny_folder, frontend__checkpoint="absent.onnx")
    assert not table._is_current(built, spec.load(gone))
