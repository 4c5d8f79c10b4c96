"""The golden model against loops over pixels in exact integers and rationals."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from calib.qparams import QParams
from compiler import reference
from compiler.errors import SizeError
from compiler.network import (
    Activation,
    Concat,
    Conv,
    DepthToSpace,
    MaxPool,
    Network,
    QuantizeInput,
    Residual,
    ResizeNearest,
    Tensor,
)
from tests.exact import binary32, binary64, fma
from tests.networks import LEAKY, RELU, Builder, bicubic_plusplus, espcn

Pixel = tuple[int, int, int]  # channel, row, column


class Naive:
    """The integer semantics one pixel at a time; sizes come from the values, never computed."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.values: dict[str, np.ndarray] = {}

    def run(self, x: np.ndarray) -> np.ndarray:
        frames = self.net.input_tensor.kind == "uint8"
        self.values[self.net.input] = np.moveaxis(x[0], -1, 0) if frames else x[0]
        for op in self.net.ops:
            self.values[op.output] = getattr(self, type(op).__name__)(op)
        y = self.values[self.net.output]
        return (np.moveaxis(y, 0, -1) if self.net.output_tensor.kind == "uint8" else y)[None]

    def QuantizeInput(self, op: QuantizeInput) -> np.ndarray:
        x, q = self.values[op.input], self.net.tensors[op.output].q
        out = np.empty(x.shape, np.int8)
        for c, i, j in np.ndindex(x.shape):
            value = x[c, i, j]
            out[c, i, j] = quantize(value, q) if op.table is None else op.table[c, int(value)]
        return out

    def Conv(self, op: Conv) -> np.ndarray:
        x, out = self.values[op.input], self.net.tensors[op.output]
        zero = self.net.tensors[op.input].q.zero_point
        (top, left, bottom, right), (sh, sw), (dh, dw) = op.pads, op.strides, op.dilations
        depth, per_group, kh, kw = op.weight.shape
        height, width = x.shape[1:]
        rows = len(range(0, height + top + bottom - dh * (kh - 1), sh))
        cols = len(range(0, width + left + right - dw * (kw - 1), sw))
        result = np.empty((depth, rows, cols), out.kind)
        multipliers = [self.multiplier(op, c, out) for c in range(depth)]
        for c, i, j in np.ndindex(result.shape):
            acc = int(op.bias[c])
            first = c // (depth // op.groups) * per_group
            for k, u, v in np.ndindex(per_group, kh, kw):
                y0, x0 = i * sh - top + u * dh, j * sw - left + v * dw
                if 0 <= y0 < height and 0 <= x0 < width:
                    acc += (int(x[first + k, y0, x0]) - zero) * int(op.weight[c, k, u, v])
            value = self.epilogue(op, (c, i, j), np.float32(acc) * multipliers[c], out)
            result[c, i, j] = self.store(value, out)
        return result

    def multiplier(self, op: Conv, c: int, out: Tensor) -> np.float32:
        s_x, s_w = Fraction(self.net.tensors[op.input].q.scale), Fraction(float(op.weight_scale[c]))
        if out.kind == "uint8":
            return binary32(binary64(binary64(255 * s_x) * s_w))
        s_y = Fraction(out.q.scale) if out.kind == "int8" else 1
        return binary32(binary64(binary64(s_x * s_w) / s_y))

    @staticmethod
    def residual_multiplier(s_r: Fraction, out: Tensor) -> np.float32:
        if out.kind == "uint8":
            return binary32(255 * s_r)
        return binary32(binary64(s_r / (Fraction(out.q.scale) if out.kind == "int8" else 1)))

    def epilogue(self, op: Conv, at: Pixel, v: np.float32, out: Tensor) -> np.float32:
        for step in op.steps:
            if isinstance(step, Activation):
                alpha = step.alpha[at[0] if len(step.alpha) > 1 else 0]
                v = v if v >= 0 else v * alpha
            else:
                r = self.net.tensors[step.tensor].q
                q_r = int(self.values[step.tensor][at]) - r.zero_point
                v = fma(q_r, self.residual_multiplier(Fraction(r.scale), out), v)
        return v

    @staticmethod
    def store(v: np.float32, out: Tensor) -> object:
        if out.kind == "float32":
            return v
        if out.kind == "uint8":
            return clamp(round(float(v)), 0, 255)
        return clamp(round(float(v)) + out.q.zero_point, -128, 127)

    def DepthToSpace(self, op: DepthToSpace) -> np.ndarray:
        x, b = self.values[op.input], op.block
        depth = len(x) // b**2
        out = np.empty((depth, x.shape[1] * b, x.shape[2] * b), x.dtype)
        for c, i, j in np.ndindex(out.shape):
            phase = i % b * b + j % b
            source = c * b * b + phase if op.mode == "CRD" else phase * depth + c
            out[c, i, j] = x[source, i // b, j // b]
        return out

    def Concat(self, op: Concat) -> np.ndarray:
        return np.array([plane for name in op.inputs for plane in self.values[name]])

    def MaxPool(self, op: MaxPool) -> np.ndarray:
        x = self.values[op.input]
        (top, left, bottom, right), (sh, sw), (kh, kw) = op.pads, op.strides, op.kernel
        height, width = x.shape[1:]
        rows = len(range(0, height + top + bottom - kh + 1, sh))
        cols = len(range(0, width + left + right - kw + 1, sw))
        out = np.empty((len(x), rows, cols), x.dtype)
        for c, i, j in np.ndindex(out.shape):
            ys = [y for y in range(i * sh - top, i * sh - top + kh) if 0 <= y < height]
            xs = [z for z in range(j * sw - left, j * sw - left + kw) if 0 <= z < width]
            out[c, i, j] = max(x[c, y, z] for y in ys for z in xs)
        return out

    def ResizeNearest(self, op: ResizeNearest) -> np.ndarray:
        x, (fy, fx) = self.values[op.input], op.factors
        out = np.empty((len(x), x.shape[1] * fy, x.shape[2] * fx), x.dtype)
        for c, i, j in np.ndindex(out.shape):
            out[c, i, j] = x[c, i // fy, j // fx]
        return out


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def quantize(value: np.float32, q: QParams) -> int:
    if np.isnan(value):
        return q.zero_point
    if np.isinf(value):
        return 127 if value > 0 else -128
    v = binary32(Fraction(float(value)) / Fraction(q.scale))
    return clamp(
        (round(float(v)) if np.isfinite(v) else int(np.sign(v)) * 999) + q.zero_point, -128, 127
    )


def input_of(net: Network, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Values inside and beyond the int8 range, and special floats."""
    rng = np.random.default_rng(seed)
    channels = net.input_tensor.channels
    if net.input_tensor.kind == "uint8":
        return rng.integers(0, 256, (1, height, width, channels)).astype(np.uint8)
    x = rng.uniform(-2, 2, (1, channels, height, width)).astype(np.float32)
    specials = np.array([np.nan, np.inf, -np.inf, 3e38, 1e-45, -0.0], np.float32)
    where = rng.random(x.shape) < 0.05
    x[where] = rng.choice(specials, int(where.sum()))
    return x


def check(net: Network, height: int = 5, width: int = 6, seed: int = 0) -> np.ndarray:
    """Every tensor of the golden model equals the naive one, in value and type."""
    x = input_of(net, height, width, seed)
    naive = Naive(net)
    expected = naive.run(x)
    for name, value in reference.trace(net, x):
        assert value.dtype == np.dtype(net.tensors[name].kind)
        np.testing.assert_array_equal(value, naive.values[name], err_msg=name)
    y = reference.run(net, x)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)
    return y


# --- whole networks


def small_bicubic_plusplus(**options: object) -> Network:
    b = Builder(3, asymmetric=bool(options.get("asymmetric")))
    x0 = b.conv(4, strides=(2, 2), steps=(LEAKY,))
    b.conv(4, steps=(LEAKY,))
    b.conv(4, steps=(LEAKY, Residual(x0)))
    b.conv(12)
    b.depth_to_space(2)
    return b.network(options.get("output", "float32"), options.get("input_kind", "float32"))


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("input_kind", ["float32", "uint8"])
@pytest.mark.parametrize("output", ["float32", "uint8"])
def test_bicubic_plusplus(asymmetric: bool, input_kind: str, output: str) -> None:
    net = small_bicubic_plusplus(asymmetric=asymmetric, input_kind=input_kind, output=output)
    y = check(net)
    assert len(np.unique(y)) > 20, "the data must not be trivial"


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2)])
def test_tiny_and_odd_sizes(size: tuple[int, int]) -> None:
    check(small_bicubic_plusplus(), *size)


def test_outputs_are_frames_or_planes() -> None:
    assert reference.run(bicubic_plusplus(2), np.zeros((1, 3, 4, 6), np.float32)).shape == (
        1, 3, 8, 12,
    )  # fmt: skip
    frames = bicubic_plusplus(2, output="uint8", input_kind="uint8")
    assert reference.run(frames, np.zeros((1, 4, 6, 3), np.uint8)).shape == (1, 8, 12, 3)


def test_the_input_is_left_alone() -> None:
    net = espcn()
    x = input_of(net, 4, 4)
    before = x.copy()
    reference.run(net, x)
    np.testing.assert_array_equal(x, before)


def test_a_size_that_does_not_fit_is_refused() -> None:
    b = Builder(1)
    b.conv(2, pads=(0, 0, 0, 0))
    with pytest.raises(SizeError):
        reference.run(b.network(), np.zeros((1, 1, 2, 5), np.float32))


# --- convolutions and their epilogues

geometries = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 2)),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 3)),
        "pads": st.tuples(*[st.integers(0, 3)] * 4),
        "groups": st.integers(1, 3),
    }
)


@settings(max_examples=100, deadline=None)
@given(
    geometries,
    st.booleans(),
    st.sampled_from(["int8", "float32", "uint8"]),
    st.lists(st.sampled_from(["prelu", "residual", "leaky", "relu"]), max_size=4),
    st.integers(0, 2**31),
)
def test_any_convolution(
    geometry: dict[str, object], asymmetric: bool, output: str, steps: list[str], seed: int
) -> None:
    groups = geometry["groups"]
    b = Builder(groups, seed % 1000, asymmetric=asymmetric)
    out = 2 * groups
    alphas = b.rng.uniform(-0.5, 1.5, out).astype(np.float32)
    b.conv(out, source="x", **geometry)
    known = {
        "prelu": Activation(alphas),
        "residual": Residual(b.last),
        "leaky": LEAKY,
        "relu": RELU,
    }
    b.conv(out, source="x", steps=tuple(known[step] for step in steps), **geometry)
    if output == "int8":
        b.conv(1, 1)
    check(b.network("float32" if output == "int8" else output), 5, 7, seed)


def test_extremes_neither_wrap_nor_saturate_before_requantization() -> None:
    """-128 * -127 summed 5 * 9 times, in all signs."""
    weight = np.full((4, 5, 3, 3), -127, np.int8)
    weight[1] = 127
    weight[2:, ::2] = 127
    b = Builder(5)
    b.conv(4, weight=weight, bias=np.array([2**30, -(2**30), 0, 1], np.int32))
    net = b.network()
    x = np.full((1, 5, 4, 4), -1e30, np.float32)
    naive = Naive(net).run(x)
    np.testing.assert_array_equal(reference.run(net, x), naive)
    assert np.abs(naive).max() > 1e3


@pytest.mark.parametrize("output", ["float32", "uint8", "int8"])
def test_results_beyond_binary32_follow_ieee(output: str) -> None:
    """M near the largest binary32: v overflows to infinity, which the end clamps, silently."""
    b = Builder(1)
    residual = b.conv(2, 1)
    b.conv(2, 1, source="x", steps=(LEAKY, Residual(residual)))
    if output == "int8":
        b.conv(1, 1)
    net = b.network("float32" if output == "int8" else output)
    big = np.full(2, 1e38 if output == "float32" else 1e36, np.float32)
    ops = tuple(
        replace(op, weight_scale=big) if isinstance(op, Conv) and op.steps else op for op in net.ops
    )
    values = dict(reference.trace(replace(net, ops=ops), np.array([[[[2, -2]]]], np.float32)))
    ends = {"int8": {-128, 127}, "uint8": {0, 255}, "float32": {-np.inf, np.inf}}[output]
    assert set(values["t2"].ravel().tolist()) <= ends


@pytest.mark.parametrize("band_bytes", [1, 500, 2000, 5000])
@pytest.mark.parametrize("output", ["float32", "uint8"])
def test_bands_change_nothing(
    band_bytes: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = small_bicubic_plusplus(asymmetric=True, output=output)
    x = input_of(net, 11, 9)
    whole = list(reference.trace(net, x))
    monkeypatch.setattr(reference, "_BAND_BYTES", band_bytes)
    for (name, expected), (same, value) in zip(whole, reference.trace(net, x), strict=True):
        assert name == same
        np.testing.assert_array_equal(value, expected)


def test_accumulate_gives_the_exact_sums_of_a_band() -> None:
    b = Builder(2, asymmetric=True)
    b.conv(3, pads=(0, 0, 0, 0), strides=(2, 1))
    conv = b.network().convs[0]
    x = np.random.default_rng(0).integers(-128, 128, (2, 9, 7)).astype(np.int8)
    acc = reference.accumulate(conv, x, 5, 1, 4, 5)
    assert acc.dtype == np.int64
    for c, i, j in np.ndindex(acc.shape):
        window = x[:, 2 * (i + 1) : 2 * (i + 1) + 3, j : j + 3].astype(int) - 5
        assert acc[c, i, j] == (window * conv.weight[c].astype(int)).sum() + conv.bias[c]


# --- data movement


def moved(*, last: str, asymmetric: bool = False) -> Network:
    """Every operator that moves integers, before a convolution."""
    b = Builder(2, asymmetric=asymmetric)
    q = b.tensors["x"].q
    b.add(MaxPool("pool", "x", "m", (3, 2), (2, 1), (1, 1, 2, 0)), 2, q)
    b.add(ResizeNearest("up", "m", "u", (2, 3)), 2, q)
    b.add(Concat("join", ("u", "u", "u", "u"), "j"), 8, q)
    b.depth_to_space(2, last)
    b.conv(3)
    return b.network()


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_moves(mode: str, asymmetric: bool) -> None:
    check(moved(last=mode, asymmetric=asymmetric))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_depth_to_space_is_onnx_s(mode: str, block: int) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (1, 2 * block**2, 3, 4)).astype(np.int8)
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=block, mode=mode)
    ports = [helper.make_tensor_value_info(n, TensorProto.INT8, None) for n in ("x", "y")]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    (expected,) = ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": x})
    op = DepthToSpace("shuffle", "x", "y", block, mode)
    y = reference.GOLDEN[DepthToSpace](op, None, {"x": x[0]})
    np.testing.assert_array_equal(y, expected[0])


@pytest.mark.parametrize("output", ["float32", "uint8"])
def test_moves_behind_the_last_convolution(output: str) -> None:
    """There they move the output's type; padding of a pool never wins, whatever the values."""
    b = Builder(2)
    b.conv(4, bias=np.full(4, -(10**7), np.int32))
    q = b.tensors[b.last].q
    conv = b.last
    b.add(MaxPool("pool", conv, "m", (3, 3), (2, 2), (1, 1, 1, 1)), 4, q)
    b.add(ResizeNearest("up", "m", "u", (2, 2)), 4, q)
    b.add(Concat("join", ("u", "u"), "j"), 8, q)
    b.depth_to_space(2)
    tensors = {
        name: Tensor(t.channels, output) if name in (conv, "m", "u", "j", b.last) else t
        for name, t in b.tensors.items()
    }
    net = Network("moves", tuple(b.ops), tensors, "input", b.last)
    y = check(net)
    if output == "float32":
        assert (y < -128).all()


def test_every_golden_function_has_a_naive_one() -> None:
    assert {op.__name__ for op in reference.GOLDEN} <= set(dir(Naive))
