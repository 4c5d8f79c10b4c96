"""The benchmark's figures are consistent; no time is asserted."""

from __future__ import annotations

import itertools
import json
import os
from functools import partial
from pathlib import Path

import pytest

from compiler import bench, latency, measured, peers, pipeline
from compiler.host import FEATURES, detect
from compiler.kernels.measure import multiplications
from compiler.library import build_library, load_library
from compiler.progress import silent
from tests.networks import bicubic_plusplus


def test_multiplications_of_bicubic_plusplus() -> None:
    """26.13 GMAC at 1080p and 3x, 17.17 at 2x, as published."""
    for rate, gmacs in ((3, 26.13), (2, 17.17)):
        total = sum(multiplications(bicubic_plusplus(rate), (1080, 1920)).values())
        assert total / 1e9 == pytest.approx(gmacs, abs=0.005)


def test_layers_and_peers_of_a_small_network(tmp_path: Path) -> None:
    net, host, size = bicubic_plusplus(2), detect(threads=1), (16, 32)
    parts, peaks = bench.layers(net, size, host, runs=1)
    assert [p.name for p in parts] == [op.name for op in net.ops[:-1]]
    assert all(p.median_ms > 0 for p in parts)
    assert all(rate > 0 for rate in peaks.values())
    path, x = tmp_path / "mod.so", measured.input_for(net, size)
    build_library(net, size, host, path)
    times = bench.measure(load_library(path, host), x, {"nothing": lambda: None}, runs=2)
    assert set(times) == {"library", "nothing"}
    assert bench.memory(path, host, x).beyond_io_bytes < 15_000_000


def test_each_timed_call_follows_untimed_ones_of_its_own() -> None:
    called: list[str] = []
    calls = {name: partial(called.append, name) for name in "ab"}
    latency.measure(calls, runs=2, warmup=0, settle_s=0.001)
    turns = [(name, len(list(same))) for name, same in itertools.groupby(called)]
    assert [name for name, _ in turns] == ["a", "b", "a", "b"]
    assert all(count > 1 for _, count in turns)
    called.clear()
    latency.measure(calls, runs=2, warmup=1)
    assert "".join(called) == "ababab"


def test_openvino_is_held_to_every_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    held = []
    for isa in FEATURES:
        peers.hold_openvino_to(isa)
        held.append(os.environ["ONEDNN_MAX_CPU_ISA"])
    assert held == ["SSE41", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"]


def test_a_bundle_is_measured_with_another_instruction_set(
    tiny_build: pipeline.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(tiny_build.bundle), "--isa", "portable", "--runs", "1", "--json", "-"]
    assert bench.run(bench.parser().parse_args(args), silent()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["isa"] == "portable"
    assert report["library"]["median_ms"] > 0
