"""Writes networks as ONNX, with and without QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calib import qparams
from calib.qparams import QParams
from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.network import (
    Activation,
    Concat,
    Conv,
    DepthToSpace,
    MaxPool,
    Move,
    Network,
    Op,
    QuantizeInput,
    Residual,
    ResizeNearest,
    unused,
)

OPSET = 17
IR_VERSION = 10


def write_float(net: FloatNetwork) -> onnx.ModelProto:
    """The float network as ONNX, without its softmax; tensors keep their names."""
    return _Writer(net.name, net.input, net.output, net.channels).write(net.ops, {})


def write(net: Network) -> onnx.ModelProto:
    """The integer network as a QDQ model: float32 in and out, per-channel int8 weights."""
    channels = {name: t.channels for name, t in net.tensors.items()}
    scales = {name: t.q for name, t in net.tensors.items() if t.kind == "int8"}
    writer = _Writer(net.name, net.input, net.output, channels)
    return writer.write(net.ops, scales, softmax=net.softmax)


def write_mixed(net: FloatNetwork, scales: Mapping[str, QParams]) -> onnx.ModelProto:
    """The float network with only some rounding points quantized, without its softmax."""
    return _Writer(net.name, net.input, net.output, net.channels).write(net.ops, scales)


class _Writer:
    """Collects nodes and initializers; `floats` names the float value of every tensor."""

    def __init__(
        self, name: str, graph_input: str, graph_output: str, channels: Mapping[str, int]
    ) -> None:
        self.name, self.input, self.output = name, graph_input, graph_output
        self.channels = channels
        self.tensor_names, self.node_names = set(channels), set[str]()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inner: list[onnx.ValueInfoProto] = []
        self.floats = {graph_input: graph_input}
        self.outside: dict[str, float] = {}  # of the tensor that Pad nodes pad, what they write

    def write(
        self,
        ops: tuple[Op | FloatOp, ...],
        scales: Mapping[str, QParams],
        *,
        softmax: bool = False,
    ) -> onnx.ModelProto:
        self.node_names.update(op.name for op in ops)
        for op in ops:
            match op:
                case QuantizeInput():
                    self.quantize_input(op, scales)
                case Conv() | FloatConv():
                    self.conv(op, scales)
                case _:
                    self.move(op)
        if softmax:
            self.softmax()
        ports = [(self.input, "height", "width"), (self.output, "output_height", "output_width")]
        graph_input, graph_output = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, self.channels[name], h, w])
            for name, h, w in ports
        )
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [graph_input],
            [graph_output],
            self.initializers,
            value_info=self.inner,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vacc-workbench",
        )
        onnx.checker.check_model(model)
        return model

    def fresh(self, name: str) -> str:
        """`name`, with underscores behind where another tensor has it."""
        return _taken(name, self.tensor_names)

    def declare(self, name: str, channels: int, kind: int = TensorProto.FLOAT) -> None:
        """The type of a tensor between two operators."""
        if name != self.output:
            shape = [1, channels, None, None]
            self.inner.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        name = self.fresh(name)
        self.initializers.append(numpy_helper.from_array(np.array(value), name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = attributes.pop("name", "") or _taken(output, self.node_names)
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def round_trip(self, source: str, quantized: str, result: str, q: QParams) -> None:
        """QuantizeLinear and DequantizeLinear of `source`."""
        scale = [
            self.constant(f"{result}_scale", np.array(q.scale, np.float32)),
            self.constant(f"{result}_zero_point", np.array(q.zero_point, np.int8)),
        ]
        self.node("QuantizeLinear", [source, *scale], quantized)
        self.node("DequantizeLinear", [quantized, *scale], result)

    def quantize_input(self, op: QuantizeInput, scales: Mapping[str, QParams]) -> None:
        value = op.input
        for node, constant in (("Sub", op.mean), ("Div", op.std)):
            if (constant != (node == "Div")).any():
                operand = self.constant(f"{value}_{node.lower()}_by", constant[:, None, None])
                value = self.node(node, [value, operand], self.fresh(f"{value}_{node.lower()}"))
                self.declare(value, self.channels[op.input])
        self.floats[op.output] = value
        self.outside = {op.output: op.outside}
        if op.output in scales:
            dequantized = self.fresh(f"{op.output}_dq")
            self.round_trip(value, op.output, dequantized, scales[op.output])
            self.declare(op.output, self.channels[op.output], TensorProto.INT8)
            self.floats[op.output] = dequantized

    def conv(self, op: Conv | FloatConv, scales: Mapping[str, QParams]) -> None:
        weights = (
            self.integer_weights(op, scales[op.input])
            if isinstance(op, Conv)
            else self.float_weights(op)
        )
        stages = [self.fresh(f"{op.output}_{i}") for i in range(len(op.steps))] + [op.output]
        source, pads = self.padded(op)
        value = self.node(
            "Conv",
            [source, *weights],
            stages[0],
            name=op.name,
            kernel_shape=op.weight.shape[2:],
            strides=op.strides,
            pads=pads,
            dilations=op.dilations,
            group=op.groups,
        )
        for step, result in zip(op.steps, stages[1:], strict=True):
            match step:
                case Activation():
                    value = self.activation(step, value, result)
                case Residual():
                    kind = "Sub" if step.negative else "Add"
                    value = self.node(kind, [value, self.floats[step.tensor]], result)
        self.declare(op.output, len(op.weight))
        if op.output in scales:
            quantized, value = (self.fresh(f"{op.output}_{end}") for end in ("q", "dq"))
            self.round_trip(op.output, quantized, value, scales[op.output])
            self.declare(quantized, len(op.weight), TensorProto.INT8)
        self.floats[op.output] = value

    def padded(self, op: Conv | FloatConv) -> tuple[str, tuple[int, ...]]:
        """The convolution's input and its pads: none behind a Pad node of something else than 0."""
        source, value = self.floats[op.input], self.outside.get(op.input, 0.0)
        if not (value and any(op.pads)):
            return source, op.pads
        top, left, bottom, right = op.pads
        inputs = [
            self.constant(f"{op.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right])),
            self.constant(f"{op.name}.outside", np.array(value, np.float32)),
        ]
        padded = self.node("Pad", [source, *inputs], self.fresh(f"{op.name}_padded"))
        self.declare(padded, self.channels[op.input])
        return padded, (0, 0, 0, 0)

    def float_weights(self, op: FloatConv) -> list[str]:
        names = [self.constant(f"{op.name}.weight", op.weight)]
        if op.bias.any():
            names.append(self.constant(f"{op.name}.bias", op.bias))
        return names

    def integer_weights(self, op: Conv, x: QParams) -> list[str]:
        def dequantize(part: str, value: NDArray[Any], scale: NDArray[Any]) -> str:
            name = self.fresh(f"{op.name}.{part}")
            inputs = [self.constant(f"{name}_q", value), self.constant(f"{name}_scale", scale)]
            return self.node("DequantizeLinear", inputs, name, axis=0)

        names = [dequantize("weight", op.weight, op.weight_scale)]
        if op.bias.any():
            step = qparams.requantize_multiplier(x.scale, op.weight_scale)
            names.append(dequantize("bias", op.bias, step))
        return names

    def activation(self, step: Activation, value: str, result: str) -> str:
        if len(step.alpha) > 1:
            slope = self.constant(f"{result}_slope", step.alpha[:, None, None])
            return self.node("PRelu", [value, slope], result)
        if step.alpha[0] == 0:
            return self.node("Relu", [value], result)
        return self.node("LeakyRelu", [value], result, alpha=float(step.alpha[0]))

    def softmax(self) -> None:
        """The head behind what was the output until now."""
        logits, channels = self.output, self.channels[self.output]
        self.output = self.fresh(f"{logits}_softmax")
        self.channels = {**self.channels, self.output: channels}
        self.declare(logits, channels)
        self.node("Softmax", [self.floats[logits]], self.output, axis=1)

    def move(self, op: Move) -> None:
        inputs = [self.floats[name] for name in op.inputs]
        self.floats[op.output] = op.output
        self.declare(op.output, self.channels[op.output])
        match op:
            case DepthToSpace():
                attributes = {"blocksize": op.block, "mode": op.mode}
                self.node("DepthToSpace", inputs, op.output, name=op.name, **attributes)
            case Concat():
                self.node("Concat", inputs, op.output, name=op.name, axis=1)
            case MaxPool():
                window = {"kernel_shape": op.kernel, "strides": op.strides, "pads": op.pads}
                self.node("MaxPool", inputs, op.output, name=op.name, **window)
            case ResizeNearest():
                factors = np.array([1, 1, *op.factors], np.float32)
                inputs += ["", self.constant(f"{op.output}_scales", factors)]
                self.node(
                    "Resize",
                    inputs,
                    op.output,
                    name=op.name,
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )


def _taken(name: str, names: set[str]) -> str:
    """`name`, changed where another has it, and from now on in `names`."""
    name = unused(name, names)
    names.add(name)
    return name
