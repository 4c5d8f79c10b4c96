"""Reads an ONNX graph as fused chains; what the integer semantics do not define is refused here.

Supporting one more operator starts with one row in `READERS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.helper import get_attribute_value

from calib.qparams import F32, F64
from compiler.errors import ModelError, UnsupportedOperatorError
from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.network import (
    Activation,
    Concat,
    DepthToSpace,
    MaxPool,
    QuantizeInput,
    Residual,
    ResizeNearest,
    Size,
    Step,
)


def fuse(model: onnx.ModelProto) -> FloatNetwork:
    """Reads a simplified ONNX graph as fused chains.

    Args:
        model: checked, with one input [1, C, H, W] and one output, opset 13 or later.
    Raises:
        UnsupportedOperatorError: names the node, and what about it the semantics do not define.
        ModelError: more than one input or output.
    """
    undefined = [node for node in model.graph.node if not _is_known(node)]
    if undefined:
        raise _undefined(undefined)
    return _Reader(model.graph).read()


def _is_known(node: onnx.NodeProto) -> bool:
    return node.op_type in READERS and node.domain in ("", "ai.onnx")


def _undefined(nodes: list[onnx.NodeProto]) -> UnsupportedOperatorError:
    """The refusal of a graph by its first such node; the other operators are named with it."""
    first = nodes[0]
    counts = Counter(node.op_type for node in nodes[1:])
    refusal = unsupported(first, "the integer semantics do not define this operator")
    if counts:
        others = ", ".join(f"{op} ({n})" if n > 1 else op for op, n in sorted(counts.items()))
        refusal.what += f"; the same is true of {len(nodes) - 1} more nodes: {others}"
    return refusal


class _Reader:
    """One pass over the nodes; `chains` holds the conv chains that may still grow."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {i.name: _array(i) for i in graph.initializer}
        self.input = _single(
            [i for i in graph.input if i.name not in self.constants], "input", graph.name
        )
        self.output = _single(list(graph.output), "output", graph.name)
        self.uses: dict[str, int] = {self.output.name: 1}
        for node in graph.node:
            for name in node.input:
                self.uses[name] = self.uses.get(name, 0) + 1
        dims = self.input.type.tensor_type.shape.dim
        if len(dims) != 4 or dims[1].dim_value < 1:
            raise UnsupportedOperatorError(
                f"the input {self.input.name!r} has {len(dims)} dimensions",
                where=f"input {self.input.name}",
                fix="export the network for one image, [1, channels, height, width]",
            )
        made = {name for node in graph.node for name in node.output}
        self.quantized_input = f"{self.input.name}_q"
        while self.quantized_input in made:
            self.quantized_input += "_"
        self.names = {self.input.name: self.quantized_input}
        self.channels = {
            self.input.name: dims[1].dim_value,
            self.quantized_input: dims[1].dim_value,
        }
        self.ops: list[FloatOp] = [
            QuantizeInput("quantize_input", self.input.name, self.quantized_input)
        ]
        self.chains: dict[str, int] = {}  # output of a growing chain -> its index in ops
        self.labels: set[str] = set()

    def read(self) -> FloatNetwork:
        for node in self.graph.node:
            READERS[node.op_type](self, node)
        if self.output.name not in self.names:
            raise ModelError(
                "the graph's output does not depend on its input",
                where=f"output {self.output.name}",
                fix="export the network again",
            )
        net = FloatNetwork(
            self.graph.name or "network",
            tuple(self.ops),
            self.channels,
            self.input.name,
            self.names[self.output.name],
        )
        self._check_output(net)
        return net

    def _check_output(self, net: FloatNetwork) -> None:
        read = {
            name
            for op in net.ops
            if isinstance(op, FloatConv) or op.output not in net.float_tensors
            for name in op.inputs
        }
        both = (read | {self.quantized_input}) & net.float_tensors - {net.input}
        if both:
            names = sorted(self.input.name if n == self.quantized_input else n for n in both)
            raise UnsupportedOperatorError(
                f"the graph output passes {', '.join(names)} on, which the network also reads",
                where=f"output {self.output.name}",
                fix="let the last convolution feed the output alone",
            )

    def label(self, node: onnx.NodeProto) -> str:
        """A name for the node's operator that no other has."""
        name = node.output[0] if node.name in self.labels | {""} else node.name
        while name in self.labels:
            name += "_"
        self.labels.add(name)
        return name

    def tensor(self, node: onnx.NodeProto, index: int) -> str:
        """The network's name of a data input; from here on the chain that made it is closed."""
        name = node.input[index]
        if name not in self.names:
            raise unsupported(node, f"its input {name!r} is a constant")
        self.chains.pop(self.names[name], None)
        return self.names[name]

    def constant(self, node: onnx.NodeProto, index: int) -> NDArray[Any]:
        name = node.input[index]
        if name not in self.constants:
            raise unsupported(node, f"its input {name!r} is computed, not a constant")
        value = self.constants[name]
        if not np.isfinite(value).all():
            raise ModelError(
                f"the constant {name!r} holds values that are infinite or not a number",
                where=f"node {node.name or node.output[0]} ({node.op_type})",
                fix="export the network again from a checkpoint with finite weights",
            )
        return value

    def add(self, op: FloatOp, node: onnx.NodeProto, channels: int) -> None:
        self.ops.append(op)
        self.names[node.output[0]] = op.output
        self.channels[op.output] = channels

    def grow(
        self, node: onnx.NodeProto, index: int, grown: Callable[[FloatConv], FloatConv]
    ) -> None:
        """Moves the open chain that makes input `index` to the end, changed by `grown`."""
        old = self.names[node.input[index]]
        position = self.chains.pop(old)
        conv = self.ops.pop(position)
        assert isinstance(conv, FloatConv)
        self.chains = {k: p - (p > position) for k, p in self.chains.items()}
        output = node.output[0]
        self.channels[output] = self.channels.pop(old)
        self.chains[output] = len(self.ops)
        self.names[output] = output
        self.ops.append(replace(grown(conv), output=output))

    def is_open(self, name: str) -> bool:
        """Whether `name` is the end of a chain with no other reader."""
        return self.names.get(name) in self.chains and self.uses[name] == 1


def _conv(reader: _Reader, node: onnx.NodeProto) -> None:
    source = reader.tensor(node, 0)
    weight = reader.constant(node, 1).astype(np.float32)
    if weight.ndim != 4:
        raise unsupported(node, f"its weight has {weight.ndim} dimensions; only 2-D is defined")
    out = len(weight)
    bias = reader.constant(node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(out)
    attributes = _attributes(node)
    dilations = _pair(attributes.get("dilations", [1, 1]))
    kernel = (weight.shape[2], weight.shape[3])
    strides = _pair(attributes.get("strides", [1, 1]))
    conv = FloatConv(
        name=reader.label(node),
        input=source,
        output=node.output[0],
        weight=weight,
        bias=bias.astype(np.float32),
        strides=strides,
        pads=_pads(node, attributes, kernel, strides, dilations),
        dilations=dilations,
        groups=int(attributes.get("group", 1)),
    )
    reader.add(conv, node, out)
    reader.chains[conv.output] = len(reader.ops) - 1


def _activation(reader: _Reader, node: onnx.NodeProto) -> None:
    if not reader.is_open(node.input[0]):
        raise unsupported(node, "an activation is defined only as the epilogue of a convolution")
    if node.op_type == "PRelu":
        slope = reader.constant(node, 1).astype(np.float32)
        channels = reader.channels[reader.names[node.input[0]]]
        if slope.size != 1 and slope.shape not in ((channels, 1, 1), (1, channels, 1, 1)):
            raise unsupported(node, "its slope is neither one number nor one per channel")
        alpha = slope.reshape(-1)
    else:
        default = 0.0 if node.op_type == "Relu" else 0.01
        alpha = np.array([_attributes(node).get("alpha", default)], np.float32)
    reader.grow(node, 0, _followed_by(Activation(alpha)))


def _add(reader: _Reader, node: onnx.NodeProto) -> None:
    known = [name for name in node.input if name in reader.names]
    if len(known) == 1:
        _scale_and_shift(reader, node)
        return
    candidates = [i for i, name in enumerate(node.input) if reader.is_open(name)]
    if len(known) != 2 or not candidates:
        raise unsupported(node, "an Add is defined only as the epilogue of a convolution")
    later = max(candidates, key=lambda i: reader.chains[reader.names[node.input[i]]])
    residual = reader.names[node.input[1 - later]]
    if reader.channels[residual] != reader.channels[reader.names[node.input[later]]]:
        raise unsupported(node, "its operands differ in channels; broadcasting is not defined")
    reader.chains.pop(residual, None)
    reader.grow(node, later, _followed_by(Residual(residual)))


def _followed_by(step: Step) -> Callable[[FloatConv], FloatConv]:
    return lambda conv: replace(conv, steps=(*conv.steps, step))


def _scale_and_shift(reader: _Reader, node: onnx.NodeProto) -> None:
    """x * gain + offset by constants: the normalization of the image, or part of a convolution."""
    index = next((i for i, name in enumerate(node.input) if name in reader.names), None)
    if index is None or (index == 1 and node.op_type in ("Sub", "Div")):
        raise unsupported(node, "it must take a constant from, or divide by one, what is computed")
    name = node.input[index]
    gain, offset = _gain_and_offset(reader, node, 1 - index)
    position = reader.chains.get(reader.names[name], 0)
    op, only_reader = reader.ops[position], reader.uses[name] == 1
    if isinstance(op, QuantizeInput) and reader.names[name] == op.output and only_reader:
        reader.ops[0] = _normalized(reader, node, op, gain, offset)
        reader.names[node.output[0]] = op.output
    elif isinstance(op, FloatConv) and reader.is_open(name) and not op.steps:
        weight = (op.weight * gain[:, None, None, None]).astype(np.float32)
        bias = (op.bias * gain + offset).astype(np.float32)
        reader.grow(node, index, lambda conv: replace(conv, weight=weight, bias=bias))
    else:
        raise unsupported(
            node,
            "arithmetic with a constant is defined only right behind a convolution, or right "
            "behind the graph input where nothing else reads that",
        )


def _gain_and_offset(reader: _Reader, node: onnx.NodeProto, index: int) -> tuple[F64, F64]:
    """The constant operand as y = gain x + offset: binary64 [C] each."""
    value = reader.constant(node, index).astype(np.float64)
    channels = reader.channels[reader.names[node.input[1 - index]]]
    if value.size != 1 and (value.shape[-3:-2] != (channels,) or value.size != channels):
        raise unsupported(node, "its constant is neither one number nor one per channel")
    constant = np.broadcast_to(value.reshape(-1), channels)
    zero, one = np.zeros(channels), np.ones(channels)
    match node.op_type:
        case "Add":
            return one, constant
        case "Sub":
            return one, -constant
        case "Mul":
            return constant, zero
        case _:
            if not constant.all():
                raise ModelError(
                    "it divides by zero",
                    where=f"node {node.name or node.output[0]} (Div)",
                    fix="export the network again from a checkpoint with finite weights",
                )
            return 1 / constant, zero


def _normalized(
    reader: _Reader, node: onnx.NodeProto, op: QuantizeInput, gain: F64, offset: F64
) -> QuantizeInput:
    """`op` with one more step: gain ((x - mean) / std) + offset is (x - mean') / std'."""
    if gain.min() <= 0:
        raise unsupported(node, "the image may be normalized by positive factors only")
    channels = len(gain)
    mean, std = (np.broadcast_to(v.astype(np.float64), channels) for v in (op.mean, op.std))
    with np.errstate(over="ignore"):
        new_mean = (mean - offset * std / gain).astype(np.float32)
        new_std = (std / gain).astype(np.float32)
    if not (np.isfinite(new_mean).all() and np.isfinite(new_std).all() and new_std.min() > 0):
        raise unsupported(node, "the normalization of the image leaves the range of binary32")
    return replace(op, mean=_shortest(new_mean), std=_shortest(new_std))


def _shortest(values: F32) -> F32:
    """One number where all channels have the same."""
    return values[:1] if (values == values[0]).all() else values


def _depth_to_space(reader: _Reader, node: onnx.NodeProto) -> None:
    attributes = _attributes(node)
    source, block = reader.tensor(node, 0), int(attributes["blocksize"])
    mode = attributes.get("mode", "DCR")
    channels = reader.channels[source] // (block * block)
    op = DepthToSpace(reader.label(node), source, node.output[0], block, mode)
    reader.add(op, node, channels)


def _concat(reader: _Reader, node: onnx.NodeProto) -> None:
    if _attributes(node)["axis"] not in (1, -3):
        raise unsupported(node, "only a Concat of channels (axis 1) is defined")
    sources = tuple(reader.tensor(node, i) for i in range(len(node.input)))
    channels = sum(reader.channels[s] for s in sources)
    reader.add(Concat(reader.label(node), sources, node.output[0]), node, channels)


def _max_pool(reader: _Reader, node: onnx.NodeProto) -> None:
    attributes = _attributes(node)
    if attributes.get("ceil_mode", 0) or set(attributes.get("dilations", [1])) != {1}:
        raise unsupported(node, "ceil_mode and dilations are not defined")
    if len(node.output) > 1:
        raise unsupported(node, "its second output, the indices, is not defined")
    source = reader.tensor(node, 0)
    kernel = _pair(attributes["kernel_shape"])
    strides = _pair(attributes.get("strides", [1, 1]))
    pads = _pads(node, attributes, kernel, strides, (1, 1))
    if max(pads[0], pads[2]) >= kernel[0] or max(pads[1], pads[3]) >= kernel[1]:
        raise unsupported(node, f"its padding {pads} is not smaller than its window {kernel}")
    op = MaxPool(reader.label(node), source, node.output[0], kernel, strides, pads)
    reader.add(op, node, reader.channels[source])


def _resize(reader: _Reader, node: onnx.NodeProto) -> None:
    attributes = _attributes(node)
    nearest = attributes.get("mode", "nearest") == "nearest"
    floor = (
        attributes.get("coordinate_transformation_mode", "half_pixel") == "asymmetric"
        and attributes.get("nearest_mode", "round_prefer_floor") == "floor"
    )
    if not (nearest and floor) or len(node.input) < 3 or not node.input[2]:
        raise unsupported(node, "only nearest, asymmetric, floor, by constant scales is defined")
    scales = reader.constant(node, 2)
    if scales.shape != (4,) or tuple(scales[:2]) != (1, 1) or (scales != np.rint(scales)).any():
        raise unsupported(node, f"its scales {scales.tolist()} are not whole factors")
    source = reader.tensor(node, 0)
    factors = (int(scales[2]), int(scales[3]))
    op = ResizeNearest(reader.label(node), source, node.output[0], factors)
    reader.add(op, node, reader.channels[source])


READERS: dict[str, Callable[[_Reader, onnx.NodeProto], None]] = {
    "Conv": _conv,
    "Relu": _activation,
    "LeakyRelu": _activation,
    "PRelu": _activation,
    "Add": _add,
    "Sub": _scale_and_shift,
    "Mul": _scale_and_shift,
    "Div": _scale_and_shift,
    "DepthToSpace": _depth_to_space,
    "Concat": _concat,
    "MaxPool": _max_pool,
    "Resize": _resize,
}


def unsupported(node: onnx.NodeProto, why: str) -> UnsupportedOperatorError:
    """The refusal of one node: its operator, its name, and the reason."""
    return UnsupportedOperatorError(
        f"operator {node.op_type} cannot be built: {why}",
        where=f"node {node.name or node.output[0]} ({node.op_type})",
        fix=f"supported are {', '.join(sorted(READERS))}; replace the node, or cut the graph there",
    )


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the constant {tensor.name!r} does not have the values that its shape needs: {error}",
            where=f"constant {tensor.name}",
            fix="export the network again",
        ) from error


def _single(ports: list[onnx.ValueInfoProto], what: str, graph: str) -> onnx.ValueInfoProto:
    if len(ports) != 1:
        raise ModelError(
            f"the network has {len(ports)} {what}s: {[p.name for p in ports]}",
            where=f"graph {graph}",
            fix=f"export a network with one image {what}",
        )
    return ports[0]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    values = {a.name: get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def _pair(values: list[int]) -> Size:
    return int(values[0]), int(values[1])


def _pads(
    node: onnx.NodeProto, attributes: dict[str, Any], kernel: Size, strides: Size, dil: Size
) -> tuple[int, int, int, int]:
    auto = attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        if min(top, left, bottom, right) < 0:
            raise unsupported(node, "negative padding is not defined")
        return top, left, bottom, right
    if auto == "VALID":
        return 0, 0, 0, 0
    if strides != (1, 1):
        raise unsupported(node, f"auto_pad {auto} with strides depends on the image size")
    high, wide = (dil[i] * (kernel[i] - 1) for i in (0, 1))
    low = (high // 2, wide // 2) if auto == "SAME_UPPER" else (high - high // 2, wide - wide // 2)
    return low[0], low[1], high - low[0], wide - low[1]
