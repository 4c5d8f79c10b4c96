"""compiler.lowparts: the same function in float, and in int8 residuals of 16 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.methods import Percentile
from compiler import fusion, qdq, reference
from compiler.calibrate import Observed, choose
from compiler.floatnet import FloatNetwork
from compiler.lowparts import METHOD, completed, low_parts
from compiler.network import Network, Residual
from compiler.recovery.channels import channel_classes
from compiler.recovery.recipe import Recipe, integer_network
from compiler.recovery.split import with_low_parts
from tests.compiler.test_recovery import error, histograms, output, samples, table
from tests.graphs import Graph, bicubic_plusplus
from tests.quantized import noise


def networks() -> tuple[FloatNetwork, FloatNetwork]:
    """A small Bicubic++, and the same with the low part of its residual."""
    net = fusion.fuse(bicubic_plusplus(channels=8).model())
    return net, with_low_parts(net, max_share=0.5)


def integer(net: FloatNetwork, **recipe: object) -> Network:
    data = samples(net)
    seen, start = histograms(net, data), table(net, data, symmetric=bool(recipe["symmetric"]))
    start = completed(net, start, seen, symmetric=bool(recipe["symmetric"]))
    return integer_network(net, start, seen, data, Recipe(**recipe)).network  # type: ignore[arg-type]


def test_the_function_stays_and_the_low_part_is_zero() -> None:
    plain, net = networks()
    first, low, *_, last, _ = net.convs
    assert low_parts(net) == {low.output: first.output}
    assert low.steps == (*first.steps, Residual(first.output, negative=True))
    assert [s for s in last.steps if isinstance(s, Residual)] == [
        Residual(first.output),
        Residual(low.output),
    ]
    x = noise(3, 16, 16, seed=4)
    np.testing.assert_array_equal(output(net, x), output(plain, x))
    assert np.abs(output(replace(net, output=low.output), x)).max() < 1e-6
    classes = channel_classes(net)
    assert (classes[low.output] == classes[first.output]).all()


def test_only_cheap_convolutions_have_one() -> None:
    plain, _ = networks()
    assert not low_parts(with_low_parts(plain, max_share=0.0))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_both_parts_together_are_sixteen_bits(symmetric: bool, rounding: str) -> None:
    """q s + q_low s_low is within half a step of s_low = s / 254 of what the products make."""
    _, net = networks()
    result = integer(net, symmetric=symmetric, rounding=rounding)
    first, low = result.convs[:2]
    assert low_parts(result) == {low.output: first.output}
    values = dict(reference.trace(result, noise(3, 16, 16, seed=5)))
    q, q_low = (result.tensors[c.output].q for c in (first, low))
    assert q_low.scale == pytest.approx(q.scale / (254 if symmetric else 255), rel=1e-6)

    def real(name: str) -> np.ndarray:
        step = result.tensors[name].q
        return (values[name].astype(np.float64) - step.zero_point) * step.scale

    exact = replace(result, ops=result.ops[:2], output=first.output)
    exact = replace(exact, tensors={**result.tensors, first.output: replace(
        result.tensors[first.output], kind="float32", qparams=None)})  # fmt: skip
    wanted = reference.run(exact, noise(3, 16, 16, seed=5))[0]
    inside = (values[first.output] > -128) & (values[first.output] < 127)
    off = np.abs(real(first.output) + real(low.output) - wanted)[inside]
    assert inside.mean() > 0.9
    assert off.max() <= 0.51 * q_low.scale + 1e-6


def test_the_output_error_falls() -> None:
    plain, net = networks()
    data = samples(plain)
    before, after = (integer(n, symmetric=True, rounding="gptq") for n in (plain, net))
    assert error(after, net, data) < 0.9 * error(before, plain, data)


def test_the_range_follows_that_of_the_tensor_it_completes() -> None:
    """In calibration, where no image shows a low part that is not 0, and without a doubt of it."""
    _, net = networks()
    data = samples(net)
    seen = histograms(net, data)
    observed = Observed({}, (seen, seen), ())
    chosen, doubts = choose(net, observed, Percentile(0.9), symmetric=True)
    (low, high), *_ = low_parts(net).items()
    assert (chosen[low].method, chosen[low].high) == (METHOD, chosen[high].scale / 2)
    assert not any(low in doubt for doubt in doubts)


def test_the_search_moves_both() -> None:
    _, net = networks()
    result = integer(net, symmetric=True, rounding="nearest", search="output")
    (low, high), *_ = low_parts(result).items()
    scales = (result.tensors[name].q.scale for name in (low, high))
    assert next(scales) == pytest.approx(next(scales) / 254, rel=1e-6)


def test_the_qdq_file_holds_the_same_network() -> None:
    _, net = networks()
    result = integer(net, symmetric=False, rounding="nearest")
    model = qdq.write(result)
    assert [n.op_type for n in model.graph.node].count("Sub") == 1
    again = qdq.read(model)
    assert low_parts(again) == low_parts(result)
    x = noise(3, 16, 16, seed=6)
    np.testing.assert_array_equal(reference.run(again, x), reference.run(result, x))


def test_other_subtractions_are_no_low_parts() -> None:
    """Of another convolution's output, or with weights of its own."""
    g = Graph(3)
    first = g.conv(4)
    g.conv(4, source="input")
    g.node("Sub", g.last, first)
    net = fusion.fuse(g.model())
    assert net.convs[1].steps == (Residual(first, negative=True),)
    assert low_parts(net) == {}


def test_what_is_also_read_otherwise_keeps_a_range_of_its_own() -> None:
    """A Concat gives its inputs one scale, and the output of the graph has none."""
    g = Graph(3)
    weight = g.rng.normal(0, 0.3, (4, 3, 3, 3))
    first = g.conv(4, weight=weight)
    g.conv(4, source="input", weight=weight)
    low = g.node("Sub", g.last, first)
    ends_here = fusion.fuse(g.model())
    assert low_parts(ends_here) == {}
    g.conv(4, source="input")
    sum_ = g.add(low)
    both = g.concat(sum_, low)
    g.conv(2, source=both)
    net = fusion.fuse(g.model())
    assert low_parts(net) == {}
    data = samples(net)
    seen = histograms(net, data)
    chosen, _ = choose(net, Observed({}, (seen, seen), ()), Percentile(0.9), symmetric=True)
    assert chosen[low].scale == chosen[sum_].scale
