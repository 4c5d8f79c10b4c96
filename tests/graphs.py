"""Tiny ONNX graphs, built in code, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str


class Graph:
    """Adds nodes one after another; every method returns the name of the node's output.

    Weights are random and keep activations of order one. `last` is what the next node reads.
    """

    def __init__(
        self,
        channels: int = 3,
        size: tuple[Dim, Dim] = ("height", "width"),
        *,
        batch: Dim = 1,
        seed: int = 0,
        name: str = "tiny",
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.name = name
        self.shape: list[Dim] = [batch, channels, *size]
        self.channels = {"input": channels}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = "input"

    def constant(self, value: Any, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(
        self, op: str, *inputs: str, channels: int = 0, output: str = "", **attributes: Any
    ) -> str:
        """Any node; reads `last` where no input is given, keeps its channels where none are."""
        inputs = inputs or (self.last,)
        output = output or f"t{len(self.nodes)}"
        name = attributes.pop("name", f"{op.lower()}{len(self.nodes)}")
        self.nodes.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        self.channels[output] = channels or self.channels.get(inputs[0], 0)
        self.last = output
        return output

    def conv(
        self,
        out: int,
        kernel: int | tuple[int, int] = 3,
        *,
        source: str = "",
        bias: bool = False,
        groups: int = 1,
        pads: tuple[int, ...] | None = None,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
        weight: Any = None,
        **attributes: Any,
    ) -> str:
        source = source or self.last
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        fan = self.channels[source] // groups
        if weight is None:
            weight = self.rng.normal(0, 1.4 / np.sqrt(fan * kh * kw), (out, fan, kh, kw))
        inputs = [source, self.constant(np.asarray(weight, np.float32))]
        if bias:
            inputs.append(self.constant(self.rng.normal(0, 0.2, out).astype(np.float32)))
        if pads is None:
            pads = ((kh - 1) // 2 * dilations[0], (kw - 1) // 2 * dilations[1]) * 2
        geometry = {"strides": strides, "dilations": dilations, "group": groups}
        if "auto_pad" not in attributes:
            geometry["pads"] = pads
        return self.node("Conv", *inputs, channels=out, **geometry, **attributes)

    def relu(self) -> str:
        return self.node("Relu")

    def leaky(self, alpha: float = 0.1) -> str:
        return self.node("LeakyRelu", alpha=alpha)

    def prelu(self, slopes: int | None = None) -> str:
        """Slopes around 0.2, one a channel or the given number, some negative."""
        count = self.channels[self.last] if slopes is None else slopes
        slope = self.rng.normal(0.2, 0.3, (count, 1, 1)).astype(np.float32)
        return self.node("PRelu", self.last, self.constant(slope))

    def add(self, other: str, source: str = "") -> str:
        return self.node("Add", source or self.last, other)

    def concat(self, *inputs: str) -> str:
        channels = sum(self.channels[name] for name in inputs)
        return self.node("Concat", *inputs, channels=channels, axis=1)

    def pad(self, *ends: int, value: float | None = None, axes: list[int] | None = None) -> str:
        """Pads by a constant; `ends` are those of all axes, or of `axes`."""
        inputs = [self.last, self.constant(np.array(ends, np.int64))]
        if value is not None or axes is not None:
            inputs.append("" if value is None else self.constant(np.float32(value)))
        if axes is not None:
            inputs.append(self.constant(np.array(axes, np.int64)))
        return self.node("Pad", *inputs)

    def max_pool(
        self,
        kernel: tuple[int, int] = (2, 2),
        strides: tuple[int, int] = (2, 2),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        **attributes: Any,
    ) -> str:
        window = {"kernel_shape": kernel, "strides": strides, "pads": pads}
        return self.node("MaxPool", **window, **attributes)

    def resize_nearest(
        self, factors: tuple[int, int] = (2, 2), *, roi: str = "", **attributes: Any
    ) -> str:
        """Opset 11 and 12 need a `roi`, of which nearest makes no use."""
        scales = self.constant(np.array([1, 1, *factors], np.float32))
        settings = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return self.node("Resize", self.last, roi, scales, **(settings | attributes))

    def depth_to_space(self, block: int, mode: str = "CRD") -> str:
        channels = self.channels[self.last] // block**2
        return self.node("DepthToSpace", channels=channels, blocksize=block, mode=mode)

    def reshape_shuffle(self, block: int, size: tuple[int, int], *, nodes: bool = False) -> str:
        """PixelShuffle as Reshape-Transpose-Reshape of [1, C, *size], static as exporters write it.

        Args:
            nodes: give the shapes as Constant nodes instead of initializers.
        """
        channels, (height, width) = self.channels[self.last] // block**2, size

        def target(*shape: int) -> str:
            value = np.array(shape, np.int64)
            if not nodes:
                return self.constant(value)
            last = self.last
            name = self.node("Constant", last, value=numpy_helper.from_array(value))
            del self.nodes[-1].input[:]
            self.last = last
            return name

        self.node("Reshape", self.last, target(1, channels, block, block, height, width))
        self.node("Transpose", perm=[0, 1, 4, 2, 5, 3])
        merged = target(1, channels, height * block, width * block)
        return self.node("Reshape", self.last, merged, channels=channels)

    def model(self, *outputs: str, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
        """The graph with the named outputs, or with the last node's."""
        graph_input = helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape)
        ports = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
            for name in outputs or (self.last,)
        ]
        graph = helper.make_graph(self.nodes, self.name, [graph_input], ports, self.constants)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def bicubic_plusplus(rate: int = 2, channels: int = 4, seed: int = 0) -> Graph:
    """Bicubic++ with few channels: half size, two convolutions, a residual, PixelShuffle."""
    g = Graph(3, seed=seed)
    g.conv(channels, strides=(2, 2))
    x0 = g.leaky()
    g.conv(channels)
    g.leaky()
    g.conv(channels)
    g.leaky()
    g.add(x0)
    g.conv(3 * (2 * rate) ** 2)
    g.depth_to_space(2 * rate)
    return g


def espcn(rate: int = 3, seed: int = 1) -> Graph:
    """ESPCN with few channels: one channel in, biases, Relu, PixelShuffle."""
    g = Graph(1, seed=seed)
    for out, kernel in ((6, 5), (4, 3), (4, 3)):
        g.conv(out, kernel, bias=True)
        g.relu()
    g.conv(rate**2, bias=True)
    g.depth_to_space(rate)
    return g


def prelu(seed: int = 2) -> Graph:
    """PReLU of one slope a channel and of one in all, DCR shuffle."""
    g = Graph(3, seed=seed)
    g.conv(5, bias=True)
    g.prelu()
    g.conv(8, (1, 3))
    g.prelu(1)
    g.depth_to_space(2, "DCR")
    g.conv(3)
    return g


def residual_groups(seed: int = 3) -> Graph:
    """Two residual blocks (conv, relu, conv, add) inside a long skip, as EDSR has them."""
    g = Graph(3, seed=seed)
    head = skip = g.conv(4, bias=True)
    for _ in range(2):
        g.conv(4, source=skip, bias=True)
        g.relu()
        g.conv(4)
        skip = g.add(skip)
    g.conv(4, source=skip)
    g.add(head)
    g.conv(3, bias=True)
    return g


def branches(seed: int = 4) -> Graph:
    """Concat, MaxPool, nearest Resize, groups, dilation and uneven padding."""
    g = Graph(3, seed=seed)
    trunk = g.conv(4, bias=True)
    g.max_pool((2, 2), (2, 2))
    g.conv(4, groups=2)
    g.leaky(0.2)
    wide = g.resize_nearest((2, 2))
    dilated = g.conv(6, source=trunk, dilations=(2, 1), groups=2)
    g.concat(dilated, wide)
    g.conv(3, (2, 3), pads=(0, 2, 1, 0))
    return g


def two_chains(seed: int = 5) -> Graph:
    """Two fusible chains that meet in an Add."""
    g = Graph(3, seed=seed)
    a, b = g.conv(4, source="input"), g.conv(4, 1, source="input", bias=True)
    g.add(b, a)
    g.relu()
    g.conv(3)
    return g


def padded(seed: int = 7) -> Graph:
    """Pad nodes of the image, by a number of its own, and of what a convolution makes."""
    g = Graph(3, seed=seed)
    g.pad(0, 0, 1, 2, 0, 0, 1, 0, value=0.4)
    first = g.conv(4, bias=True, pads=(0, 0, 0, 0))
    g.last = "input"
    g.pad(0, 0, 0, 0, 0, 0, 0, 2, value=0.4)
    g.conv(4, (1, 3), pads=(0, 0, 0, 0))
    g.add(first)
    g.relu()
    g.pad(0, 0, 1, 0, 0, 0, 1, 1)
    g.conv(3, pads=(0, 1, 0, 0))
    return g


def normalized(seed: int = 6) -> Graph:
    """An image normalized per channel in two steps, and arithmetic behind convolutions."""
    g = Graph(3, seed=seed)
    g.node("Sub", g.last, g.constant(np.float32([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1)))
    g.node("Mul", g.constant(np.float32(2)), g.last, channels=3)
    g.conv(4, bias=True)
    g.node("Mul", g.last, g.constant(np.float32([1, 2, 0.5, -1]).reshape(4, 1, 1)))
    g.node("Add", g.constant(np.float32(0.1)), g.last, channels=4)
    g.leaky()
    g.conv(12)
    g.node("Div", g.last, g.constant(np.float32([2])))
    g.depth_to_space(2)
    return g


GRAPHS: dict[str, Callable[[], Graph]] = {
    f.__name__: f
    for f in (
        bicubic_plusplus,
        espcn,
        prelu,
        residual_groups,
        branches,
        two_chains,
        normalized,
        padded,
    )
}
"""Every graph that can be built, by name; all take sizes that are multiples of four."""


def random_graph(seed: int) -> Graph:
    """A supported graph of random operators, at one image size until its last PixelShuffle."""
    g = Graph(int(1 + seed % 3), seed=seed, name=f"random{seed}")
    pick = g.rng.integers
    made = [g.conv(int(pick(1, 6)), int(pick(1, 3)) * 2 - 1, bias=bool(pick(2)))]
    for _ in range(int(pick(1, 6))):
        source = made[int(pick(len(made)))]
        match pick(5):
            case 0:
                made.append(g.concat(source, made[-1]))
            case 1:
                g.last = source
                made.append(g.max_pool((3, 3), (1, 1), (1, 1, 1, 1)))
            case _:
                made.append(_random_chain(g, source, made))
    g.conv(4, source=made[-1])
    g.depth_to_space(2, "CRD" if pick(2) else "DCR")
    return g


def _random_chain(g: Graph, source: str, made: list[str]) -> str:
    pick = g.rng.integers
    partner = made[int(pick(len(made)))]
    out = g.channels[partner] if pick(2) else int(pick(1, 6))
    end = g.conv(out, source=source, bias=bool(pick(2)))
    for _ in range(int(pick(3))):
        match pick(4):
            case 0:
                end = g.relu()
            case 1:
                end = g.leaky(float(g.rng.uniform(-0.5, 1.5)))
            case 2:
                end = g.prelu()
            case _ if g.channels[partner] == out and partner != end:
                end = g.add(partner, end) if pick(2) else g.add(end, partner)
    return end
