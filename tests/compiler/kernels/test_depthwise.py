"""Depthwise and grouped convolutions against the golden model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compiler import reference
from compiler.host import FEATURES, Host, cpu_features
from compiler.kernels.direct import chunks, register_block
from compiler.kernels.isa import ISAS
from compiler.library import build_library, load_library
from compiler.network import Activation, Network, Residual
from tests.networks import LEAKY, RELU, Builder

AVAILABLE = [isa for isa, features in FEATURES.items() if features <= cpu_features()]
SLOW = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def check(net: Network, x: np.ndarray, host: Host) -> list[str]:
    """Runs the library against the golden model; returns the kernels of the convolutions."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mod.so"
        info = build_library(net, (x.shape[2], x.shape[3]), host, path)
        np.testing.assert_array_equal(load_library(path, host)(x), reference.run(net, x))
    return [layer.kernel for layer in info.layers[1:]]


def random_input(channels: int, height: int, width: int) -> np.ndarray:
    """Values beyond the int8 range and special floats among them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (1, channels, height, width)).astype(np.float32)
    x[rng.random(x.shape) < 0.02] = np.nan
    x[rng.random(x.shape) < 0.02] = -np.inf
    return x


@pytest.mark.parametrize("isa", AVAILABLE)
@SLOW
@given(data=st.data())
def test_any_depthwise_convolution(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    channels = draw(st.integers(2, 70))
    kernel, strides, dilations = (
        (draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (7, 3, 3)
    )
    pads = tuple(draw(st.integers(0, 4)) for _ in range(4))
    reach = [(kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[i + 2] for i in (0, 1)]
    height, width = (draw(st.integers(max(1, r), max(1, r) + 40)) for r in reach)
    b = Builder(channels, draw(st.integers(0, 99)), asymmetric=draw(st.booleans()))
    options = {"strides": strides, "pads": pads, "dilations": dilations, "groups": channels}
    side = b.conv(channels, kernel, **options)
    prelu = Activation(b.rng.uniform(-1, 2, channels).astype(np.float32))
    b.conv(channels, kernel, source="x", steps=(Residual(side), prelu), **options)
    net = b.network(draw(st.sampled_from(["float32", "uint8"])))
    kernels = check(net, random_input(channels, height, width), Host(isa, draw(st.integers(1, 3))))
    assert all(k.startswith("depthwise") for k in kernels)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_chain_of_separable_layers(isa: str) -> None:
    b = Builder(3, 1, asymmetric=True)
    b.conv(24, strides=(2, 2), steps=(RELU,))
    for out, stride in ((40, 1), (33, 2)):
        b.conv(b.tensors[b.last].channels, groups=b.tensors[b.last].channels, steps=(LEAKY,),
               strides=(stride, stride))  # fmt: skip
        b.conv(out, 1, steps=(RELU,))
    b.conv(33, 3, steps=(LEAKY,))
    b.conv(33, 5, groups=33)
    kernels = check(b.network(), random_input(3, 21, 130), Host(isa, 2))
    assert [k.split(",")[0].split("(")[0] for k in kernels[-3:]] == ["direct", "F", "depthwise"]


def test_blocks_of_a_grouped_convolution_read_one_group() -> None:
    for isa, group_out, widths in (("vnni", 16, {1}), ("vnni", 48, {3}), ("avx2", 32, {2})):
        b = Builder(40, 1)
        b.conv(4 * group_out, groups=4)
        conv = b.network().convs[0]
        width, _ = register_block(conv, list(range(4 * group_out)), ISAS[isa])
        assert width in widths
        parts = chunks(conv, list(range(4 * group_out)), ISAS[isa], width)
        assert {run.count for part in parts for run in part.runs} == {10}


@pytest.mark.parametrize("isa", AVAILABLE)
def test_grouped_convolutions(isa: str) -> None:
    b = Builder(12, 5, asymmetric=True)
    b.conv(96, 1, groups=2, steps=(RELU,))
    b.conv(64, 3, groups=4, dilations=(1, 2), steps=(LEAKY,))
    b.conv(36, 3, groups=2, strides=(2, 1))
    check(b.network(), random_input(12, 9, 31), Host(isa, 2))


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_accumulators(isa: str, sign: int) -> None:
    """All weights and inputs at an end of their range, a bias that leaves just room for them."""
    channels, taps = 19, 49
    b = Builder(channels, 2)
    weight = np.full((channels, 1, 7, 7), 127 * sign, np.int8)
    room = 2**31 - 1 - 128 * 127 * taps
    bias = np.full(channels, -sign * room, np.int32)
    b.conv(channels, 7, weight=weight, bias=bias, groups=channels)
    x = np.full((1, channels, 9, 20), -99, np.float32)
    x[..., 15:] = 99
    (kernel,) = check(b.network(), x, Host(isa, 1))
    assert kernel.startswith("depthwise")


@pytest.mark.parametrize("isa", AVAILABLE[-1:])
def test_windows_too_large_to_keep_many_pixels_of(isa: str) -> None:
    b = Builder(9, 3)
    b.conv(9, (31, 21), groups=9)
    (kernel,) = check(b.network(), random_input(9, 8, 26), Host(isa, 1))
    assert kernel.startswith("depthwise")


@pytest.mark.parametrize("isa", AVAILABLE[-1:])
def test_several_outputs_a_channel_and_a_shuffle_take_the_general_kernel(isa: str) -> None:
    b = Builder(12, 4)
    b.conv(24, groups=12)
    b.conv(24, groups=24)
    b.depth_to_space(2, "DCR")
    kernels = check(b.network(), random_input(12, 6, 9), Host(isa, 1))
    assert all(k.startswith("direct") for k in kernels)
