"""Networks as standard ONNX: the float network, and the integer one with Quantize/DequantizeLinear.

The QDQ file is complete: `read(write(net))` is the same integer network, so a bundle's `qdq.onnx`
is all that is needed to compile it for another size. Sizes are symbolic. A conv chain's float
result keeps the name `t` that it has in the original graph; `t_q` is its int8 form and `t_dq`
what the next layers read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calib import qparams
from calib.qparams import QParams
from compiler import fusion
from compiler.errors import ModelError
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
)
from compiler.quantize import tensor_types

OPSET = 17
IR_VERSION = 10


def write_float(net: FloatNetwork) -> onnx.ModelProto:
    """The float network as ONNX; tensors keep their names."""
    return _Writer(net.name, net.input, net.output).write(net.ops, dict(net.channels), {})


def write(net: Network) -> onnx.ModelProto:
    """The integer network as a QDQ model: float32 in and out, per-channel int8 weights."""
    channels = {name: t.channels for name, t in net.tensors.items()}
    scales = {name: t.q for name, t in net.tensors.items() if t.kind == "int8"}
    return _Writer(net.name, net.input, net.output).write(net.ops, channels, scales)


class _Writer:
    """Collects nodes and initializers; `floats` names the float value of every tensor."""

    def __init__(self, name: str, graph_input: str, graph_output: str) -> None:
        self.name, self.input, self.output = name, graph_input, graph_output
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.floats = {graph_input: graph_input}

    def write(
        self, ops: tuple[Op | FloatOp, ...], channels: dict[str, int], scales: dict[str, QParams]
    ) -> onnx.ModelProto:
        for op in ops:
            match op:
                case QuantizeInput():
                    self.quantize_input(op, scales)
                case Conv() | FloatConv():
                    self.conv(op, scales)
                case _:
                    self.move(op)
        ports = [(self.input, "height", "width"), (self.output, "output_height", "output_width")]
        graph_input, graph_output = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels[name], h, w])
            for name, h, w in ports
        )
        inner = [
            helper.make_tensor_value_info(name, kind, [1, channels[op.output], None, None])
            for op in ops[:-1]
            for name, kind in self.inner_tensors(op, scales)
        ]
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [graph_input],
            [graph_output],
            self.initializers,
            value_info=inner,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vacc-workbench",
        )
        onnx.checker.check_model(model)
        return model

    @staticmethod
    def inner_tensors(op: Op | FloatOp, scales: dict[str, QParams]) -> list[tuple[str, int]]:
        """What an operator leaves between others, by name and element type."""
        if isinstance(op, QuantizeInput):
            return [(op.output, TensorProto.INT8)] if op.output in scales else []
        inner: list[tuple[str, int]] = [(op.output, TensorProto.FLOAT)]
        if isinstance(op, Conv) and op.output in scales:
            inner.append((f"{op.output}_q", TensorProto.INT8))
        return inner

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(np.array(value), name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = attributes.pop("name", output)
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def round_trip(self, source: str, quantized: str, result: str, q: QParams) -> str:
        """QuantizeLinear and DequantizeLinear of `source`."""
        scale = [
            self.constant(f"{result}_scale", np.array(q.scale, np.float32)),
            self.constant(f"{result}_zero_point", np.array(q.zero_point, np.int8)),
        ]
        self.node("QuantizeLinear", [source, *scale], quantized)
        return self.node("DequantizeLinear", [quantized, *scale], result)

    def quantize_input(self, op: QuantizeInput, scales: dict[str, QParams]) -> None:
        self.floats[op.output] = op.input
        if op.output in scales:
            dequantized = f"{op.output}_dq"
            self.floats[op.output] = self.round_trip(
                op.input, op.output, dequantized, scales[op.output]
            )

    def conv(self, op: Conv | FloatConv, scales: dict[str, QParams]) -> None:
        weights = (
            self.integer_weights(op, scales[op.input])
            if isinstance(op, Conv)
            else self.float_weights(op)
        )
        stages = [f"{op.output}_{i}" for i in range(len(op.steps))] + [op.output]
        value = self.node(
            "Conv",
            [self.floats[op.input], *weights],
            stages[0],
            name=op.name,
            kernel_shape=op.weight.shape[2:],
            strides=op.strides,
            pads=op.pads,
            dilations=op.dilations,
            group=op.groups,
        )
        for step, result in zip(op.steps, stages[1:], strict=True):
            match step:
                case Activation():
                    value = self.activation(step, value, result)
                case Residual():
                    value = self.node("Add", [value, self.floats[step.tensor]], result)
        if op.output in scales:
            q = scales[op.output]
            value = self.round_trip(value, f"{op.output}_q", f"{op.output}_dq", q)
        self.floats[op.output] = value

    def float_weights(self, op: FloatConv) -> list[str]:
        names = [self.constant(f"{op.name}.weight", op.weight)]
        if op.bias.any():
            names.append(self.constant(f"{op.name}.bias", op.bias))
        return names

    def integer_weights(self, op: Conv, x: QParams) -> list[str]:
        def dequantize(part: str, value: NDArray[Any], scale: NDArray[Any]) -> str:
            name = f"{op.name}.{part}"
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

    def move(self, op: Move) -> None:
        inputs = [self.floats[name] for name in op.inputs]
        self.floats[op.output] = op.output
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


def read(model: onnx.ModelProto) -> Network:
    """The integer network of a QDQ model that `write` made.

    Raises:
        ModelError: a tensor lacks its scale, or a weight is not int8 per output channel.
        UnsupportedOperatorError: from `fusion.fuse`, by node.
    """
    stripped, scales, integers = _strip(model)
    net = fusion.fuse(stripped)
    sources = {
        op.output: op.input if isinstance(op, QuantizeInput) else op.output
        for op in net.ops
        if op.output in net.rounding_points
    }
    points = {name: _lookup(scales, source, model) for name, source in sources.items()}
    ops = tuple(
        _integer(op, integers, model) if isinstance(op, FloatConv) else op for op in net.ops
    )
    tensors = tensor_types(net, points)
    return Network(net.name, ops, tensors, net.input, net.output)


_Integers = dict[str, tuple[NDArray[Any], NDArray[Any]]]  # value, scale


def _strip(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, QParams], _Integers]:
    """The float graph under the Q/DQ nodes, activation scales, and integer constants."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    scales: dict[str, QParams] = {}
    integers: _Integers = {}
    alias: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (constants[name] for name in node.input[1:3])
            scales[node.input[0]] = QParams(float(scale), int(zero))
            alias[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            integers[node.output[0]] = (constants[node.input[0]], constants[node.input[1]])
        elif node.op_type == "DequantizeLinear":
            alias[node.output[0]] = alias[node.input[0]]
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [alias.get(name, name) for name in node.input]
            kept.append(copy)
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.graph.node[:]
    stripped.graph.node.extend(kept)
    stripped.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, (value, _) in integers.items()
    )
    return stripped, scales, integers


def _integer(op: FloatConv, integers: _Integers, model: onnx.ModelProto) -> Conv:
    weight, scale = _lookup(integers, f"{op.name}.weight", model)
    bias, _ = integers.get(f"{op.name}.bias", (np.zeros(len(weight), np.int32), None))
    fields = {k: v for k, v in vars(op).items() if k not in ("weight", "bias")}
    return Conv(**fields, weight=weight, weight_scale=scale, bias=bias)


def _lookup(mapping: dict[str, Any], name: str, model: onnx.ModelProto) -> Any:
    if name not in mapping:
        raise ModelError(
            f"the QDQ model has no scale for {name!r}",
            where=f"graph {model.graph.name}",
            fix="rebuild the bundle; the file was not written by this tool, or was changed",
        )
    return mapping[name]
