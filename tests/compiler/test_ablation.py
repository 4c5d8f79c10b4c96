"""The ablation: which variants are made of a spec, and that they are measured."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from compiler import spec, svg
from compiler.ablation import TARGETS, ablate, recipes, show
from compiler.progress import silent
from tests.compiler.conftest import tiny_spec


def test_steps_are_added_one_by_one_and_left_out_alone(tiny_folder: Path) -> None:
    path = tiny_spec(
        tiny_folder,
        backend__quantize__calibrate_mode="mse",
        backend__quantize__rounding="gptq",
    )
    found = recipes(spec.load(path))
    assert list(found) == [
        "nearest, max",
        "+ calibrate_mode mse",
        "+ rounding gptq",
        "all but calibrate_mode",
        "all but rounding",
        "all, weight_scale power2",
        "all, one scale a weight",
    ]
    prefix = "backend.quantize."
    assert {f"{prefix}rounding=gptq", f"{prefix}calibrate_mode=mse"} <= set(
        found["+ rounding gptq"]
    )
    assert f"{prefix}rounding=nearest" in found["all but rounding"]
    assert f"{prefix}weight_scale=power2" in found["all, weight_scale power2"]


def test_every_recipe_is_measured_on_every_set(tiny_folder: Path) -> None:
    path = tiny_spec(tiny_folder)
    folder = tiny_folder / "hr"
    rows = ablate(path, (), [folder, folder], with_peers=False, reporter=silent())
    assert {row.target for row in rows} == set(TARGETS)
    for row in rows:
        assert not row.failure
        first, second = row.drops
        assert first == second
    show(silent(), rows, [folder, folder])


def test_bars_are_drawn_to_scale() -> None:
    picture = svg.standalone(svg.bars([("a & b", 0.2), ("none", 0.0), ("gain", -0.1)], "t", "dB"))
    root = ElementTree.fromstring(picture)
    widths = [float(r.get("width", 0)) for r in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(2 * widths[2], abs=0.02)
    assert widths[1] == 0
