"""Reads the integer network back from the QDQ file that `writer` made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calib.qparams import QParams
from compiler import fusion
from compiler.errors import ModelError
from compiler.floatnet import FloatConv
from compiler.network import Conv, Network, QuantizeInput
from compiler.quantize import RoundedWeights, tensor_types, with_integers

_Integer = tuple[NDArray[Any], NDArray[Any]]  # value, scale


def read(model: onnx.ModelProto) -> Network:
    """The integer network of a QDQ model that `write` made.

    Raises:
        ModelError: a tensor lacks its scale, or a weight is not int8 per output channel.
        UnsupportedOperatorError: from `fusion.fuse`, by node.
    """
    stripped, scales, integers = _strip(model)
    net = fusion.fuse(stripped)
    sources = {
        op.output: _normalized(stripped) if isinstance(op, QuantizeInput) else op.output
        for op in net.ops
        if op.output in net.rounding_points
    }
    points = {name: _lookup(scales, source, model) for name, source in sources.items()}
    constants = {n.name: list(n.input[1:]) for n in stripped.graph.node if n.op_type == "Conv"}
    ops = tuple(
        _integer(op, [_lookup(integers, name, model) for name in constants[op.name]], model)
        if isinstance(op, FloatConv)
        else op
        for op in net.ops
    )
    tensors = tensor_types(net, points)
    return Network(net.name, ops, tensors, net.input, net.output, net.softmax)


def _normalized(model: onnx.ModelProto) -> str:
    """The graph input, or what its leading normalization makes of it: `write` puts these first."""
    value: str = model.graph.input[0].name
    for node in model.graph.node:
        if node.op_type not in ("Sub", "Div") or node.input[0] != value:
            break
        value = node.output[0]
    return value


def _strip(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, QParams], dict[str, _Integer]]:
    """The float graph under the Q/DQ nodes, activation scales, and integer constants."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    scales: dict[str, QParams] = {}
    integers: dict[str, _Integer] = {}
    alias: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (_lookup(constants, name, model) for name in (*node.input, "", "")[1:3])
            if scale.size != 1 or zero.size != 1 or zero.dtype != np.int8:
                raise _foreign(model, f"{node.input[0]!r} is not quantized to int8 by one scale")
            scales[node.input[0]] = QParams(scale.item(), zero.item())
            alias[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            scale = _lookup(constants, node.input[1], model)
            integers[node.output[0]] = (constants[node.input[0]], scale)
        elif node.op_type == "DequantizeLinear":
            alias[node.output[0]] = _lookup(alias, node.input[0], model)
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


def _integer(op: FloatConv, constants: list[_Integer], model: onnx.ModelProto) -> Conv:
    (weight, scale), *biases = constants
    bias = biases[0][0] if biases else np.zeros(len(weight), np.int32)
    shapes = (scale.shape, bias.shape)
    if (weight.dtype, bias.dtype, *shapes) != (np.int8, np.int32, *[(len(weight),)] * 2):
        raise _foreign(model, f"the weights of {op.name} are not int8 per output channel")
    return with_integers(op, RoundedWeights(weight, scale), bias)


def _lookup(mapping: Mapping[str, Any], name: str, model: onnx.ModelProto) -> Any:
    if name not in mapping:
        raise _foreign(model, f"the QDQ model has no scale for {name!r}")
    return mapping[name]


def _foreign(model: onnx.ModelProto, what: str) -> ModelError:
    return ModelError(
        what,
        where=f"graph {model.graph.name}",
        fix="rebuild the bundle; the file was not written by this tool, or was changed",
    )
