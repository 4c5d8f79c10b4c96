"""Winograd kernels: the choice and its proof, and integers that wrap on the way."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from calib.qparams import QParams
from compiler import reference
from compiler.host import FEATURES, Host, cpu_features
from compiler.kernels.isa import ISAS
from compiler.library import build_library, compile_module, load_library
from compiler.lower import chains
from compiler.network import Conv, Network, QuantizeInput, Residual, Tensor
from tests.compiler.kernels.test_avx_vnni import emitted
from tests.networks import LEAKY, Builder

AVAILABLE = [isa for isa, features in FEATURES.items() if features <= cpu_features()]
BY_LANES = list({ISAS[isa].lanes: isa for isa in AVAILABLE}.values())  # one for each width
SLOW = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def run(net: Network, x: np.ndarray, host: Host, folder: Path) -> tuple[np.ndarray, list[str]]:
    path = folder / "mod.so"
    info = build_library(net, (x.shape[2], x.shape[3]), host, path)
    return load_library(path, host)(x), [layer.kernel for layer in info.layers]


def one_conv(weight: np.ndarray, bias: np.ndarray, scale: float, z: int = 0) -> Network:
    """int8 input of scale 1 (the graph input holds the integers), one conv with LeakyReLU."""
    conv = Conv(
        name="conv", input="x", output="y", weight=weight, bias=bias, pads=(1, 1, 1, 1),
        weight_scale=np.full(len(weight), scale, np.float32), steps=(LEAKY,),
    )  # fmt: skip
    tensors = {
        "input": Tensor(weight.shape[1], "float32"),
        "x": Tensor(weight.shape[1], "int8", QParams(1.0, z)),
        "y": Tensor(len(weight), "float32"),
    }
    return Network("one", (QuantizeInput("q", "input", "x"), conv), tensors, "input", "y")


@pytest.mark.parametrize("isa", AVAILABLE)
@SLOW
@given(data=st.data())
def test_any_3x3_convolution(isa: str, data: st.DataObject, tmp_path_factory: object) -> None:
    draw = data.draw
    b = Builder(draw(st.integers(1, 70)), draw(st.integers(0, 99)), asymmetric=draw(st.booleans()))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    first = b.conv(draw(st.sampled_from([8, 16, 33])), 3, steps=(LEAKY,))
    b.conv(b.tensors[first].channels, 3, steps=(Residual(first), LEAKY))
    b.conv(draw(st.integers(1, 10)), 3, pads=pads)
    net = b.network(draw(st.sampled_from(["float32", "uint8"])))
    height, width = draw(st.integers(3, 20)), draw(st.integers(3, 70))
    x = np.random.default_rng(0).uniform(-3, 3, (1, net.input_tensor.channels, height, width))
    x = x.astype(np.float32)
    folder = tmp_path_factory.mktemp("lib")  # type: ignore[attr-defined]
    y, _ = run(net, x, Host(isa, draw(st.integers(1, 3))), folder)
    np.testing.assert_array_equal(y, reference.run(net, x))


@pytest.mark.parametrize(("isa", "z"), [(isa, 0) for isa in AVAILABLE] + [(AVAILABLE[-1], -128)])
def test_products_that_wrap_before_a_leaky_relu(isa: str, z: int, tmp_path: Path) -> None:
    """|576 y| > 2^31 > |64 y|: LLVM must not take the sign of 64 y from the product by 9^-1."""
    rng = np.random.default_rng(1)
    weight = np.full((8, 100, 3, 3), 127, np.int8)
    weight[1::2] = -127
    net = one_conv(weight, rng.integers(-9, 9, 8).astype(np.int32), 1e-6, z)
    x = np.full((1, 100, 8, 48), 127, np.float32)
    x[..., 4:, :] = -128
    x[..., 24:] = rng.integers(-128, 128, (1, 100, 8, 24))
    peak = np.abs(reference.run(net, x)).max() / 1e-6
    assert 576 * peak > 2**31
    y, kernels = run(net, x - np.float32(z), Host(isa, 2), tmp_path)
    np.testing.assert_array_equal(y, reference.run(net, x - np.float32(z)))
    if z == 0:
        assert 64 * peak < 2**31
        assert ISAS[isa].bytes_dot or kernels[-1].startswith("F(4x4")


@pytest.mark.parametrize(
    ("isa", "channels", "bias"),
    [(isa, 8, bias) for isa in AVAILABLE for bias in (2**26, -(2**30))]
    + [(AVAILABLE[-1], 230, 0)],  # the choice is made before any instruction set: one is enough
)
def test_layers_beyond_the_bound_fall_back(
    isa: str, channels: int, bias: int, tmp_path: Path
) -> None:
    weight = np.full((16, channels, 3, 3), 127, np.int8)
    net = one_conv(weight, np.full(16, bias, np.int32), 1e-6)
    x = np.full((1, channels, 8, 16), -128, np.float32)
    y, kernels = run(net, x, Host(isa, 2), tmp_path)
    assert not kernels[-1].startswith("F(4x4")
    np.testing.assert_array_equal(y, reference.run(net, x))


@pytest.fixture
def paired(isa: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An instruction set, with inner products whether it gains by them or not."""
    monkeypatch.setitem(ISAS, isa, replace(ISAS[isa], adds_beside=True))
    return isa


WIDE = [isa for isa in AVAILABLE if ISAS[isa].lanes >= 8]


@pytest.mark.parametrize("isa", WIDE)
@pytest.mark.parametrize(("channels", "outputs"), [(32, 33), (32, 108), (96, 64), (96, 80)])
def test_inner_products_at_the_ends_of_int8(
    paired: str, channels: int, outputs: int, tmp_path: Path
) -> None:
    """Blocks of one, two and three vectors, odd sizes; 144 * 107 + 68 * 255 is 0.9994 of int16."""
    rng = np.random.default_rng(outputs)
    weight = rng.choice([-107, 107], (outputs, channels, 3, 3)).astype(np.int8)
    weight[0] = 107
    net = one_conv(weight, rng.integers(-(2**20), 2**20, outputs).astype(np.int32), 1e-6)
    x = rng.choice([-128, 127], (1, channels, 11, 29)).astype(np.float32)
    x[..., :6, :] = np.where(rng.random((1, channels, 6, 29)) < 0.9, 127, -128)
    y, kernels = run(net, x, Host(paired, 2), tmp_path)
    assert kernels[-1].startswith("F(4x4,3x3) of inner products")
    np.testing.assert_array_equal(y, reference.run(net, x))


@pytest.mark.parametrize("isa", WIDE)
@pytest.mark.parametrize("width", [3, 5, 9, 13, 38])
def test_inner_products_between_layers(paired: str, width: int, tmp_path: Path) -> None:
    """F(2x2), one to four tiles; bytes in order, residuals, a pixel shuffle, uint8 outputs."""
    b = Builder(32, width, asymmetric=width % 2 == 0)
    first = b.conv(64, steps=(LEAKY,))
    b.conv(64, steps=(Residual(first), LEAKY))
    b.conv(75 if width == 38 else 108)
    b.depth_to_space(5 if width == 38 else 6)  # rows of 5 leave no group narrower than 5 vectors
    net = b.network("uint8" if width == 13 else "float32")
    x = np.random.default_rng(0).uniform(-3, 3, (1, 32, 7, width)).astype(np.float32)
    y, kernels = run(net, x, Host(paired, 3), tmp_path)
    direct = width == 3 and ISAS[paired].bytes_dot  # cheaper than F(2x2) of 64 channels there
    chosen = "F(2x2,3x3) of inner" if width == 3 else "F(4x4,3x3) of inner"
    assert all(kernel.startswith(chosen) for kernel in kernels[3 if direct else 1 : 4])
    np.testing.assert_array_equal(y, reference.run(net, x))


@pytest.mark.parametrize("isa", [isa for isa in AVAILABLE if ISAS[isa].lanes == 16])
@pytest.mark.parametrize(
    ("peak", "channels", "outputs"),
    [
        (127, 32, 48),  # the sums of V and U might not fit
        (1, 32, 32),  # too few vectors share what is added of V alone
        (1, 33, 48),  # channels that do not fill the vectors
    ],
)
def test_layers_without_inner_products(
    paired: str, peak: int, channels: int, outputs: int, tmp_path: Path
) -> None:
    weight = np.full((outputs, channels, 3, 3), peak, np.int8)
    net = one_conv(weight, np.zeros(outputs, np.int32), 1e-6)
    x = np.random.default_rng(0).choice([-128, 127], (1, channels, 8, 16)).astype(np.float32)
    y, kernels = run(net, x, Host(paired, 1), tmp_path)
    signed = not ISAS[paired].bytes_dot  # where 127 does fit
    assert kernels[-1].startswith("F(4x4,3x3), ") or (signed and peak == 127)
    np.testing.assert_array_equal(y, reference.run(net, x))


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_nothing_that_may_wrap_is_marked_nsw_or_nuw(isa: str) -> None:
    """The unoptimised LLVM IR of a symmetric network: no flagged vector arithmetic on int32."""
    b = Builder(32, 2)
    b.conv(32, steps=(LEAKY,))
    b.conv(32, steps=(LEAKY,))
    net = b.network()
    (chain,) = chains(net, (16, 64), Host(isa, 1))
    assert all(k.choice.startswith("F(4x4") for k in chain.kernels[1:])
    target = {"kind": "llvm", "mcpu": ISAS[isa].cpu, "opt-level": 0}
    compiled = tvm.compile(tvm.IRModule({chain.name: chain.function()}), target=target)
    code = emitted(compiled, "ll")
    lanes = ISAS[isa].lanes
    arithmetic = re.findall(rf"= (?:add|sub|mul|shl)\b.*<{lanes} x i32>.*", code)
    assert len(arithmetic) > 50
    flagged = [line for line in arithmetic if "nsw" in line or "nuw" in line]
    assert not flagged


def test_the_operations_of_every_instruction_set_may_wrap() -> None:
    for isa in ISAS.values():
        assert "nsw" not in isa.llvm
        assert "nuw" not in isa.llvm


def test_scales_too_small_to_divide_by_a_power_of_two_stay_direct(tmp_path: Path) -> None:
    net = one_conv(np.ones((8, 32, 3, 3), np.int8), np.zeros(8, np.int32), 1e-37)
    x = np.full((1, 32, 8, 16), 3, np.float32)
    y, kernels = run(net, x, Host("portable", 1), tmp_path)
    assert kernels[-1].startswith("direct")
    np.testing.assert_array_equal(y, reference.run(net, x))


@pytest.mark.parametrize("isa", BY_LANES)
@pytest.mark.parametrize(
    ("kind", "outputs", "block"),
    [("float32", 12, 2), ("float32", 108, 6), ("uint8", 16, 2), ("uint8", 108, 6)],
)
def test_large_outputs_bypass_the_caches(
    isa: str, kind: str, outputs: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compiler.kernels.epilogue.STREAM_BYTES", 0)
    b = Builder(32, 3)
    b.conv(outputs)
    b.depth_to_space(block)
    net = b.network(kind)
    x = np.random.default_rng(0).uniform(-2, 2, (1, 32, 5, 192)).astype(np.float32)
    for width in (192, 104, 95):  # whole lines of groups of tiles, of overlapping ones, none
        part = x[..., :width].copy()
        (chain,) = chains(net, (5, width), Host(isa, 2))
        streams = chain.kernels[-1].outputs.streams  # type: ignore[attr-defined]
        assert streams or width != 192
        assert not (streams and width == 95)
        y, _ = run(net, part, Host(isa, 2), tmp_path)
        np.testing.assert_array_equal(y, reference.run(net, part))


@pytest.mark.parametrize(("kind", "rows"), [("float32", 3 * 6), ("uint8", 6)])
def test_whole_vectors_bypass_the_caches(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, and each row has the page that comes next translated."""
    monkeypatch.setattr("compiler.kernels.epilogue.STREAM_BYTES", 0)
    b = Builder(32, 3)
    b.conv(108)
    b.depth_to_space(6)
    host = Host("avx2", 1)
    (chain,) = chains(b.network(kind), (5, 192), host)
    compiled = compile_module(tvm.IRModule({chain.name: chain.function()}), host)
    code = emitted(compiled, "s")
    assert code.count("vmovntps") == 108  # 8 pixels of 18 rows of floats, 32 of 6 rows of bytes
    assert code.count("prefetchnta") == rows


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_other_kernels_bypass_the_caches(
    isa: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compiler.kernels.epilogue.STREAM_BYTES", 0)
    b = Builder(48, 3)
    if kind == "uint8":
        b.conv(64, 1)  # a pixel is a line
    else:
        b.conv(48, 7, groups=48)  # blocks of pixels that are no lines
    net = b.network(kind)
    x = np.random.default_rng(0).uniform(-2, 2, (1, 48, 5, 96)).astype(np.float32)
    (chain,) = chains(net, (5, 96), Host(isa, 2))
    assert "vacc_stream" in chain.function().script() or kind == "float32"
    y, _ = run(net, x, Host(isa, 2), tmp_path)
    np.testing.assert_array_equal(y, reference.run(net, x))


@pytest.mark.parametrize("isa", BY_LANES)
def test_segments_that_straddle_vectors_inside_a_network(isa: str, tmp_path: Path) -> None:
    b = Builder(16, 3)
    b.conv(108)
    b.depth_to_space(6)
    b.conv(3)
    net = b.network()
    x = np.random.default_rng(0).uniform(-2, 2, (1, 16, 7, 21)).astype(np.float32)
    y, kernels = run(net, x, Host(isa, 2), tmp_path)
    assert kernels[1].startswith("F(4x4")
    np.testing.assert_array_equal(y, reference.run(net, x))
