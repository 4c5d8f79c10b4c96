"""compiler.quantize against weights, biases and scales worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.errors import CalibrationError
from calib.qparams import QParams
from calib.table import CalibrationTable, TensorCalibration
from compiler import reference
from compiler.errors import AccumulatorOverflowError
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.fusion import fuse
from compiler.network import Network, Tensor
from compiler.quantize import RoundedWeights, quantize, round_to_nearest, tensor_types
from compiler.runner import Session
from tests.graphs import GRAPHS, Graph, random_graph
from tests.quantized import integer_network, noise


def table(**scales: float | tuple[float, int]) -> CalibrationTable:
    def entry(q: QParams) -> TensorCalibration:
        return TensorCalibration("by hand", 0, 0, 0, 0, 0, q.scale, q.zero_point, 0)

    return CalibrationTable(
        {n: entry(QParams(*s) if isinstance(s, tuple) else QParams(s)) for n, s in scales.items()}
    )


def two_layers(bias: float = 0.0) -> FloatNetwork:
    g = Graph(1)
    g.conv(2, 1, weight=np.array([1.0, -0.5]).reshape(2, 1, 1, 1), name="first")
    g.relu()
    g.conv(1, 1, weight=np.array([[2.0, 0.25]]).reshape(1, 2, 1, 1), name="second")
    net = fuse(g.model())
    ops = tuple(
        replace(op, bias=np.full_like(op.bias, bias)) if isinstance(op, FloatConv) else op
        for op in net.ops
    )
    return replace(net, ops=ops)


def rounded(net: FloatNetwork, **how: bool) -> dict[str, RoundedWeights]:
    settings = {"per_channel": True, "power2": False} | how
    return {conv.name: round_to_nearest(conv, **settings) for conv in net.convs}


# --- weights


@pytest.mark.parametrize(
    ("how", "scales", "integers"),
    [
        ({"per_channel": True, "power2": False}, [1 / 127, 0.5 / 127], [127, -127]),
        ({"per_channel": False, "power2": False}, [1 / 127, 1 / 127], [127, -64]),
        ({"per_channel": True, "power2": True}, [1 / 64, 1 / 128], [64, -64]),
        ({"per_channel": False, "power2": True}, [1 / 64, 1 / 64], [64, -32]),
    ],
)
def test_round_to_nearest_by_hand(
    how: dict[str, bool], scales: list[float], integers: list[int]
) -> None:
    """-0.5 in steps of 1 / 127 is -63.5, which rounds to the even -64."""
    result = round_to_nearest(two_layers().convs[0], **how)
    assert result.weight.dtype == np.int8
    assert result.scale.dtype == np.float32
    np.testing.assert_array_equal(result.scale, np.array(scales, np.float32))
    np.testing.assert_array_equal(result.weight.ravel(), integers)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_weights_are_at_most_half_a_step_off(seed: int, per_channel: bool, power2: bool) -> None:
    for conv in fuse(random_graph(seed).model()).convs:
        result = round_to_nearest(conv, per_channel=per_channel, power2=power2)
        step = result.scale[:, None, None, None].astype(np.float64)
        error = np.abs(result.weight * step - conv.weight) / step
        assert error.max() <= 0.5 * (1 + 1e-4)
        assert np.abs(result.weight.astype(int)).max() <= 127
        if not power2:
            assert np.abs(result.weight.astype(int)).max() == 127
        assert len(set(result.scale.tolist())) == 1 or per_channel


def test_a_dead_channel_has_scale_one_and_zero_weights() -> None:
    g = Graph(1)
    g.conv(2, 1, weight=np.array([0.0, 1.0]).reshape(2, 1, 1, 1))
    result = round_to_nearest(fuse(g.model()).convs[0], per_channel=True, power2=False)
    assert result.scale[0] == 1
    assert not result.weight[0].any()


# --- the integer network


def test_the_integer_network_by_hand() -> None:
    floats = two_layers(bias=0.03)
    net = quantize(floats, table(input_q=0.01, t1=(0.02, -128)), rounded(floats))
    assert net.tensors == {
        "input": Tensor(1, "float32"),
        "input_q": Tensor(1, "int8", QParams(0.01)),
        "t1": Tensor(2, "int8", QParams(0.02, -128)),
        "t2": Tensor(1, "float32"),
    }
    first, second = net.convs
    assert first.weight.tolist() == [[[[127]]], [[[-127]]]]
    assert first.bias.dtype == np.int32
    assert first.bias.tolist() == [381, 762]  # 0.03 / (0.01 / 127), and of half that step
    assert second.weight.tolist() == [[[[127]], [[16]]]]
    assert second.bias.tolist() == [95]  # 0.03 / (0.02 * 2 / 127) = 95.25
    assert (first.name, first.input, first.output) == ("first", "input_q", "t1")
    assert first.steps == floats.convs[0].steps

    y = reference.run(net, np.array([[[[0.5, -0.5]]]], np.float32))
    # 50 steps: 0.53 -> 26.5 -> 26 and relu(-0.22) -> 0; -50 steps: 0 and 0.28 -> 14
    expected = [2 * 0.52 + 0.03, 0.25 * 0.28 + 0.03]
    np.testing.assert_allclose(y.ravel(), expected, atol=0.002)


def test_geometry_is_passed_on() -> None:
    for build in GRAPHS.values():
        floats, net = integer_network(build().model())
        assert [op.output for op in net.ops] == [op.output for op in floats.ops]
        for conv, source in zip(net.convs, floats.convs, strict=True):
            for name in ("name", "input", "output", "strides", "pads", "dilations", "groups"):
                assert getattr(conv, name) == getattr(source, name)
            assert conv.steps is source.steps
        assert (net.name, net.input, net.output) == (floats.name, floats.input, floats.output)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_integer_network_is_close_to_the_float_one(name: str, symmetric: bool) -> None:
    """Untrained weights lose about 1 % to int8; a wrong scale anywhere would lose far more."""
    model = GRAPHS[name]().model()
    _, net = integer_network(model, symmetric=symmetric)
    x = noise(net.input_tensor.channels, 32, 40, seed=9)
    y, expected = reference.run(net, x), Session(model).run(x)
    assert np.sqrt(np.mean((y - expected) ** 2)) < 0.015 * np.abs(expected).max()


def test_moves_pass_scales_on_and_float_tensors_have_none() -> None:
    _, net = integer_network(GRAPHS["branches"]().model(), symmetric=False)
    tensors = net.tensors
    assert tensors["t1"].q == tensors["t0"].q  # pool
    assert tensors["t4"].q == tensors["t3"].q  # resize
    assert tensors["t5"].q == tensors["t6"].q == tensors["t3"].q  # concat shares one
    assert tensors["t7"].kind == tensors["input"].kind == "float32"
    assert tensors["t7"].qparams is None


def test_everything_behind_the_last_convolution_is_float() -> None:
    _, net = integer_network(GRAPHS["bicubic_plusplus"]().model())
    assert {name for name, t in net.tensors.items() if t.kind == "float32"} == {
        "input",
        "t7",
        "t8",
    }


# --- refusals


@pytest.mark.parametrize("bias", [1e6, -1e6, 1e30, -1e30])
def test_a_bias_beyond_int32_is_refused(bias: float) -> None:
    """Also one beyond int64, whose conversion would give anything."""
    floats = two_layers(bias)
    with pytest.raises(AccumulatorOverflowError, match="the bias of output channel") as caught:
        quantize(floats, table(input_q=1e-5, t1=1.0), rounded(floats))
    assert caught.value.where == "node first"
    assert caught.value.fix


def test_a_bias_that_leaves_no_room_for_the_sum_is_refused() -> None:
    floats = two_layers(0.5 * (2**31 - 1000) / 127 * 1e-2)
    with pytest.raises(AccumulatorOverflowError, match="may reach"):
        quantize(floats, table(input_q=1e-2, t1=1.0), rounded(floats))


def test_a_table_of_another_network_is_refused() -> None:
    floats = two_layers()
    with pytest.raises(CalibrationError, match="no tensor t1"):
        quantize(floats, table(input_q=1e-2, other=1.0), rounded(floats))


def test_a_concat_of_different_scales_is_refused() -> None:
    floats = fuse(GRAPHS["branches"]().model())
    points = dict.fromkeys(floats.rounding_points, QParams(1.0))
    assert tensor_types(floats, points)["t6"].q == QParams(1.0)
    with pytest.raises(CalibrationError, match="t5, t4 have different scales") as caught:
        tensor_types(floats, points | {"t5": QParams(1.0, 1)})
    assert caught.value.where == "node concat6"


def test_no_finite_network_gives_scales_that_are_not() -> None:
    net: Network = integer_network(GRAPHS["espcn"]().model())[1]
    for conv in net.convs:
        assert np.isfinite(conv.weight_scale).all()
        assert (conv.weight_scale > 0).all()
