"""compiler.sweep and compiler.analyze: grids, ranking, and sums that must agree."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from calib.errors import DataError
from compiler.progress import silent
from compiler.sweep import Grid, Variant, show, sweep
from tests.compiler.conftest import tiny_spec


def test_a_grid_is_every_combination_in_order():
    grid = Grid.parse(["calibrate_mode=max,mse", "backend.target=vacc,vacc-asym"])
    assert grid.points == [
        ("backend.quantize.calibrate_mode=max", "backend.target=vacc"),
        ("backend.quantize.calibrate_mode=max", "backend.target=vacc-asym"),
        ("backend.quantize.calibrate_mode=mse", "backend.target=vacc"),
        ("backend.quantize.calibrate_mode=mse", "backend.target=vacc-asym"),
    ]


@pytest.mark.parametrize("text", ["", "mode", "=a,b", "mode=", "mode=,"])
def test_a_grid_that_is_none_is_refused(text):
    with pytest.raises(DataError, match="--grid"):
        Grid.parse([text])


def test_failures_and_all_zero_drops_can_be_shown():
    variants = [Variant(("a=1",), 0.0, 0.0), Variant(("a=2",), failure="no such method")]
    assert math.isnan(variants[1].psnr_drop_db)
    show(silent(), variants)


def test_variants_are_ranked_and_failures_come_last(tiny_folder: Path):
    grid = Grid.parse(["calibrate_mode=nonsense,max", "equalize=true,false"])
    found = sweep(tiny_spec(tiny_folder), (), grid, 2, silent())
    assert [bool(v.failure) for v in found] == [False, False, True, True]
    drops = [v.psnr_drop_db for v in found[:2]]
    assert drops == sorted(drops)
    assert "nonsense" in found[-1].failure
