"""The benchmark's figures are consistent; no time is asserted."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import onnx
import pytest
import tvm

from compiler import bench, latency, measured, peers, pipeline
from compiler.errors import HostError
from compiler.host import FEATURES, Host, detect
from compiler.kernels import measure
from compiler.kernels.isa import ISAS
from compiler.kernels.measure import layer_calls, multiplications
from compiler.library import build_library, compile_module, load_library
from compiler.progress import silent
from tests import graphs
from tests.compiler.kernels.test_avx_vnni import emitted
from tests.networks import bicubic_plusplus, sixteen_bits


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


def test_a_low_part_alone_says_who_computes_it() -> None:
    host = detect(threads=1)
    parts = {p.name: p.kernel for p in layer_calls(sixteen_bits(asymmetric=False), (8, 12), host)}
    told = [name for name, kernel in parts.items() if "in the network conv1 computes it" in kernel]
    assert told == ["conv2"]


@pytest.mark.parametrize("isa", ["avx2", "vnni"])
def test_the_peak_makes_every_product_that_it_counts(isa: str) -> None:
    """LLVM must not find two of them equal."""
    table = ISAS[isa]
    function = measure._peak_function(table, 1, 2, 5, table.dot16_)
    compiled = compile_module(tvm.IRModule({"peak": function}), Host(isa, 1))
    made = re.findall(r"vpmaddwd|vpdpwssd", emitted(compiled, "s"))
    assert len(made) % 10 == 0
    assert made


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


def test_openvino_has_a_name_for_every_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    for isa in FEATURES:
        peers.hold_openvino_to(isa)


def test_a_bundle_is_measured_with_another_instruction_set(
    tiny_build: pipeline.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(tiny_build.bundle), "--isa", "portable", "--runs", "1", "--json", "-"]
    assert bench.run(bench.parser().parse_args(args), silent()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["isa"] == "portable"
    assert report["library"]["median_ms"] > 0


def test_save_is_for_the_figures_of_the_bundle_itself(tiny_build: pipeline.Result) -> None:
    args = [str(tiny_build.bundle), "--isa", "portable", "--save"]
    with pytest.raises(HostError, match="own library"):
        bench.run(bench.parser().parse_args(args), silent())


_KERNELS = """
import sys
import numpy as np
import onnx
from compiler import peers
peers.hold_openvino_to(sys.argv[2])
openvino = peers.packages()[1]
x = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
model = peers.openvino_model(onnx.load(sys.argv[1]))
model.reshape(x.shape)
compiled = openvino.Core().compile_model(peers.quantize(model, [x]), "CPU")
for op in compiled.get_runtime_model().get_ops():
    kind = op.get_rt_info()
    if kind["layerType"].astype(str) == "Convolution":
        print(kind["primitiveType"].astype(str))
"""


def test_openvino_convolves_with_the_instruction_set_it_is_held_to(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    path = tmp_path / "net.onnx"
    onnx.save(graphs.bicubic_plusplus(channels=8).model(), path)
    command = [sys.executable, "-c", _KERNELS, str(path), "avx2"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    kernels = made.stdout.split()
    assert kernels
    assert not [k for k in kernels if "avx512" in k]
