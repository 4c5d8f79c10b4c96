"""Lookup tables that are lines, and that are not, against the golden model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calib.qparams import QParams, quantize
from compiler import reference
from compiler.host import FEATURES, Host, cpu_features
from compiler.kernels.move import line_through
from compiler.library import build_library, load_library
from compiler.network import QuantizeInput
from tests.networks import Builder

AVAILABLE = [isa for isa, features in FEATURES.items() if features <= cpu_features()]
BYTES = np.arange(256, dtype=np.float32) / np.float32(255)


@pytest.mark.parametrize("q", [QParams(1 / 127), QParams(1 / 255, -128), QParams(0.003, -100)])
def test_a_plain_table_is_a_line(q: QParams) -> None:
    table = np.stack([quantize(BYTES, q)] * 3)
    line = line_through(table)
    assert line is not None
    slope, zero = line
    v = np.clip(np.float32(1) * np.arange(256, dtype=np.float32) * slope, -128 - zero, 127 - zero)
    np.testing.assert_array_equal(np.rint(v) + zero, table[0])


def test_other_tables_are_not() -> None:
    table = np.stack([quantize(BYTES, QParams(1 / 127))] * 3)
    table[2, 77] += 1
    assert line_through(table) is None
    assert line_through(np.full((1, 256), 127, np.int8)) is None


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("width", [1, 37])
def test_frames_through_a_line(isa: str, width: int, tmp_path: Path) -> None:
    b = Builder(3, 1)
    b.conv(3, 1)
    net = b.network("uint8", "uint8")
    table = np.stack([quantize(BYTES, QParams(0.006, -90))] * 3)
    ops = tuple(replace(o, table=table) if isinstance(o, QuantizeInput) else o for o in net.ops)
    net = replace(net, ops=ops)
    x = np.random.default_rng(0).integers(0, 256, (1, 5, width, 3)).astype(np.uint8)
    host = Host(isa, 2)
    info = build_library(net, (5, width), host, tmp_path / "mod.so")
    assert info.layers[0].kernel == "table, as a line"
    y = load_library(tmp_path / "mod.so", host)(x)
    np.testing.assert_array_equal(y, reference.run(net, x))
