"""compiler.network: sizes, and the int32 proof."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.qparams import QParams
from compiler.accumulators import accumulator_bounds, prove_int32
from compiler.errors import AccumulatorOverflowError, SizeError
from compiler.network import (
    Concat,
    Conv,
    MaxPool,
    Network,
    QuantizeInput,
    Residual,
    ResizeNearest,
    Tensor,
    output_size,
    sizes,
)
from tests.networks import LEAKY, Builder, bicubic_plusplus, espcn


def conv(weight: np.ndarray, bias: np.ndarray | None = None, **geometry: object) -> Conv:
    bias = np.zeros(len(weight), np.int32) if bias is None else bias
    scale = np.ones(len(weight), np.float32)
    w = weight.astype(np.int8)
    return Conv(
        name="c", input="x", output="y", weight=w, weight_scale=scale, bias=bias, **geometry
    )


def residual_mismatch() -> Network:
    """x0 at half size is added to a tensor of full size."""
    b = Builder(3)
    x0 = b.conv(4, strides=(2, 2))
    b.conv(4, source="x", steps=(Residual(x0),))
    b.conv(1)
    return b.network()


# --- sizes


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_a_window_has_as_many_outputs_as_fit(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    """Counted: the starts at which the whole (dilated) window lies inside the padded input."""
    span = dilation * (kernel - 1) + 1
    starts = range(0, size + before + after - span + 1, stride)
    op = conv(
        np.ones((1, 1, kernel, 1)),
        strides=(stride, 1),
        pads=(before, 0, after, 0),
        dilations=(dilation, 1),
    )
    assert max(output_size(op, (size, 7))[0], 0) == len(starts)
    assert output_size(op, (size, 7))[1] == 7


@pytest.mark.parametrize("rate", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (2, 2), (36, 50)])
def test_bicubic_plusplus_multiplies_even_sizes(rate: int, height: int, width: int) -> None:
    net = bicubic_plusplus(rate)
    known = sizes(net, (height, width))
    assert known[net.input] == known["x"] == (height, width)
    assert known["t1"] == (height // 2, width // 2)
    assert known[net.output] == (rate * height, rate * width)


def test_odd_sizes_round_up_in_the_strided_convolution() -> None:
    assert sizes(bicubic_plusplus(3), (5, 7))["t1"] == (3, 4)
    assert sizes(bicubic_plusplus(3), (1, 1))["t5"] == (6, 6)
    assert sizes(espcn(3), (1, 1))["t5"] == (3, 3)


def test_data_movement() -> None:
    pool = MaxPool("p", "x", "y", (3, 2), (2, 2), (1, 0, 1, 0))
    assert output_size(pool, (7, 9)) == (4, 4)
    assert output_size(ResizeNearest("r", "x", "y", (2, 3)), (5, 7)) == (10, 21)
    assert output_size(Concat("c", ("x", "x"), "y"), (5, 7)) == (5, 7)
    assert output_size(QuantizeInput("q", "x", "y"), (5, 7)) == (5, 7)


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (2, 8), (8, 2)])
def test_an_empty_output_is_refused_with_its_node(size: tuple[int, int]) -> None:
    b = Builder(1)
    b.conv(2, pads=(0, 0, 0, 0))
    net = b.network()
    assert sizes(net, (3, 3))["t1"] == (1, 1)
    with pytest.raises(SizeError, match=f"{size[0]}x{size[1]} does not fit") as caught:
        sizes(net, size)
    assert caught.value.where == ("node quantize" if 0 in size else "node conv1")
    assert caught.value.fix


def test_a_residual_of_another_size_is_refused() -> None:
    with pytest.raises(SizeError, match="conv2 would be 8x8, t1 is 4x4") as caught:
        sizes(residual_mismatch(), (8, 8))
    assert caught.value.where == "node conv2"


def test_a_residual_that_fits_some_sizes_only() -> None:
    """Down by two and up by two: even sizes fit, odd ones do not."""
    b = Builder(1)
    skip = b.conv(2)
    b.conv(2, strides=(2, 2))
    up = b.add(ResizeNearest("up", b.last, "u", (2, 2)), 2, b.tensors[b.last].q)
    b.conv(2, source=up, steps=(Residual(skip), LEAKY))
    b.conv(1)
    net = b.network()
    assert sizes(net, (6, 4))[net.output] == (6, 4)
    for odd in [(5, 4), (6, 3), (1, 1)]:
        with pytest.raises(SizeError):
            sizes(net, odd)


def test_a_concat_of_different_sizes_is_refused() -> None:
    b = Builder(1)
    a = b.conv(2, strides=(2, 2))
    b.add(Concat("join", ("x", a), "j"), 3, b.tensors["x"].q)
    b.conv(1)
    with pytest.raises(SizeError, match="t1 is 3x3") as caught:
        sizes(b.network(), (6, 6))
    assert caught.value.where == "node join"
    assert sizes(b.network(), (1, 1))["j"] == (1, 1)


# --- the int32 proof


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-127, 127), min_size=3, max_size=3),
    st.integers(-(10**4), 10**4),
    st.integers(-128, 127),
)
def test_bounds_against_brute_force(weights: list[int], bias: int, zero_point: int) -> None:
    """|acc| is largest at an end of every input, so the 2^3 corners are all that need be tried."""
    op = conv(np.array(weights).reshape(1, 3, 1, 1), np.array([bias], np.int32))
    corners = itertools.product((-128, 127), repeat=3)
    reached = [
        sum(w * (q - zero_point) for w, q in zip(weights, corner, strict=True)) + bias
        for corner in corners
    ]
    bound = int(accumulator_bounds(op, QParams(1.0, zero_point))[0])
    assert max(map(abs, reached)) <= bound
    if zero_point <= -1 and min(weights) >= 0 and bias >= 0:  # the far end is 127 - z: reached
        assert max(map(abs, reached)) == bound


def test_bounds_count_every_tap_of_every_group() -> None:
    op = conv(np.full((4, 2, 3, 5), -127), np.array([0, 1, -1, 2**31 - 1], np.int32), groups=2)
    mass = 2 * 3 * 5 * 127
    expected = np.array([0, 1, 1, 2**31 - 1]) + 128 * mass
    np.testing.assert_array_equal(accumulator_bounds(op, QParams(1.0)), expected)
    np.testing.assert_array_equal(
        accumulator_bounds(op, QParams(1.0, -128)), expected - 128 * mass + 255 * mass
    )


def network_of(op: Conv, zero_point: int = 0) -> Network:
    q = QParams(1.0, zero_point)
    tensors = {
        "input": Tensor(op.weight.shape[1], "float32"),
        "x": Tensor(op.weight.shape[1], "int8", q),
        "y": Tensor(len(op.weight), "float32"),
    }
    return Network("one", (QuantizeInput("q", "input", "x"), op), tensors, "input", "y")


def test_extreme_weights_of_230_channels_are_refused() -> None:
    """230 * 17 * 17 * 127 * 255 > 2^31 > 230 * 17 * 17 * 127 * 128."""
    weight = np.zeros((3, 230, 17, 17))
    weight[1] = 127
    prove_int32(network_of(conv(weight)))
    with pytest.raises(AccumulatorOverflowError, match="output channel 1 may reach") as caught:
        prove_int32(network_of(conv(weight), zero_point=-128))
    assert caught.value.where == "node c"
    assert str(230 * 17 * 17 * 127 * 255) in str(caught.value)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_big_bias_is_refused_at_the_first_step_too_many(sign: int) -> None:
    weight = np.ones((1, 1, 1, 1))
    room = 2**31 - 1 - 128
    prove_int32(network_of(conv(weight, np.array([sign * room], np.int32))))
    with pytest.raises(AccumulatorOverflowError):
        prove_int32(network_of(conv(weight, np.array([sign * (room + 1)], np.int32))))
    with pytest.raises(AccumulatorOverflowError):
        prove_int32(network_of(conv(weight, np.array([-(2**31)], np.int32))))


def test_properties() -> None:
    net = bicubic_plusplus(2)
    assert [op.name for op in net.convs] == ["conv1", "conv2", "conv3", "conv4"]
    assert net.convs[2].inputs == ("t2", "t1")
    assert net.convs[2].kernel == (3, 3)
