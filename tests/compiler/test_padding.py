"""compiler.padding: Pad nodes in graphs, from ONNX to the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compiler import qdq, reference
from compiler.errors import UnsupportedOperatorError
from compiler.fusion import fuse
from compiler.host import FEATURES, Host, cpu_features
from compiler.library import build_library, load_library
from compiler.runner import Session
from tests import graphs
from tests.graphs import Graph
from tests.quantized import integer_network, noise

ISAS = [isa for isa, features in FEATURES.items() if features <= cpu_features()]


def test_pad_nodes_become_pads_of_convolutions() -> None:
    net = fuse(graphs.padded().model())
    assert [c.pads for c in net.convs] == [(1, 2, 1, 0), (0, 0, 0, 2), (1, 1, 1, 1)]
    assert net.quantize_input.outside == np.float32(0.4)
    assert [net.outside(c.input) for c in net.convs] == [np.float32(0.4)] * 2 + [0.0]


def test_pad_nodes_of_opset_18_name_their_axes() -> None:
    g = Graph(3)
    g.pad(1, 2, 3, 4, axes=[-1, 2])
    g.conv(2, pads=(0, 0, 0, 0))
    (conv,) = fuse(g.model(opset=18)).convs
    assert conv.pads == (2, 1, 4, 3)


def test_the_float_network_pads_like_the_graph() -> None:
    model, x = graphs.padded().model(), noise(3, 12, 20)
    written = qdq.write_float(fuse(model))
    np.testing.assert_allclose(Session(written).run(x), Session(model).run(x), atol=1e-5)
    assert fuse(written).quantize_input.outside == np.float32(0.4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_integer_network_pads_by_what_the_number_rounds_to(symmetric: bool) -> None:
    _, net = integer_network(graphs.padded().model(), symmetric=symmetric)
    image = net.quantize_input.output
    q = net.tensors[image].q
    assert net.padding(image) == round(float(np.float32(0.4)) / q.scale) + q.zero_point
    hidden = net.convs[-1].input
    assert net.padding(hidden) == net.tensors[hidden].q.zero_point
    x = noise(3, 12, 20)
    golden = reference.run(net, x)
    again = qdq.read(qdq.write(net))
    assert again.padding(image) == net.padding(image)
    np.testing.assert_array_equal(reference.run(again, x), golden)
    np.testing.assert_allclose(Session(qdq.write(net), optimize=False).run(x), golden, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [(12, 20), (3, 70), (1, 1)])
def test_the_library_pads_like_the_golden_model(
    isa: str, size: tuple[int, int], tmp_path: Path
) -> None:
    _, net = integer_network(graphs.padded().model())
    host, x = Host(isa, 2), noise(3, *size)
    build_library(net, size, host, tmp_path / "mod.so")
    y = load_library(tmp_path / "mod.so", host)(x)
    np.testing.assert_array_equal(y, reference.run(net, x))


def twice(g: Graph) -> None:
    g.pad(0, 0, 1, 1, 0, 0, 1, 1, value=1.0)
    g.conv(2)


def after_a_conv(g: Graph) -> None:
    g.conv(2)
    g.pad(0, 0, 1, 1, 0, 0, 1, 1, value=1.0)
    g.conv(2, pads=(0, 0, 0, 0))


def differently(g: Graph) -> None:
    first = g.conv(2)
    g.last = "input"
    g.pad(0, 0, 1, 1, 0, 0, 1, 1, value=1.0)
    g.add(first, g.conv(2, pads=(0, 0, 0, 0)))


def for_a_pool(g: Graph) -> None:
    g.conv(2)
    g.pad(0, 0, 1, 1, 0, 0, 1, 1)
    g.max_pool()


def channels(g: Graph) -> None:
    g.pad(0, 1, 0, 0, 0, 0, 0, 0)
    g.conv(2)


def negative(g: Graph) -> None:
    g.pad(0, 0, 1, 1, 0, 0, -1, 1)
    g.conv(2)


def too_few(g: Graph) -> None:
    g.pad(0, 1, 1)
    g.conv(2)


def reflecting(g: Graph) -> None:
    ends = g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    g.node("Pad", "input", ends, mode="reflect")
    g.conv(2, pads=(0, 0, 0, 0))


def at_the_end(g: Graph) -> None:
    g.conv(3)
    g.pad(0, 0, 1, 1, 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (twice, "zeros what a Pad padded by 1"),
        (after_a_conv, "for the image alone"),
        (differently, "by different numbers"),
        (for_a_pool, "only convolutions may read"),
        (channels, "only rows and columns"),
        (negative, "negative"),
        (too_few, "do not fit its axes"),
        (reflecting, "mode reflect is not defined"),
        (at_the_end, "only convolutions may read"),
    ],
)
def test_refuses(build: Callable[[Graph], None], why: str) -> None:
    g = Graph(3)
    build(g)
    with pytest.raises(UnsupportedOperatorError, match=why) as caught:
        fuse(g.model())
    assert caught.value.where
    assert caught.value.fix
