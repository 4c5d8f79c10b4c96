"""Quantization: the float network and the calibrated ranges to the integer network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from calib import qparams
from calib.errors import CalibrationError
from calib.qparams import F32, I8, I32, QParams
from calib.table import CalibrationTable
from compiler.accumulators import prove_int32
from compiler.errors import AccumulatorOverflowError
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import Conv, Network, Op, QuantizeInput, Tensor


@dataclass(frozen=True, eq=False)
class RoundedWeights:
    """Integer weights of one convolution and their scales: weight = scale[c] * q_w."""

    weight: I8  # [O, I / groups, kh, kw]
    scale: F32  # [O]


def round_to_nearest(conv: FloatConv, *, per_channel: bool, power2: bool) -> RoundedWeights:
    """Symmetric weights, each rounded to its nearest step."""
    scale = qparams.weight_scales(conv.weight, per_channel=per_channel, power2=power2)
    return RoundedWeights(qparams.quantize_weights(conv.weight, scale), scale)


def quantize(
    net: FloatNetwork, table: CalibrationTable, weights: Mapping[str, RoundedWeights]
) -> Network:
    """The integer network (docs/semantics.md): float32 in, float32 out.

    Args:
        table: scale and zero point of every rounding point; tensors that one Concat joins must
            have been given one scale (`calibrate.concat_groups`).
        weights: integer weights by convolution name.
    Raises:
        AccumulatorOverflowError: an accumulator or bias could leave int32.
    """
    tensors = tensor_types(net, {name: table[name].qparams for name in net.rounding_points})
    ops: list[Op] = []
    for op in net.ops:
        if isinstance(op, FloatConv):
            ops.append(_integer_conv(op, tensors[op.input].q, weights[op.name]))
        elif isinstance(op, QuantizeInput):
            outside = qparams.quantize(np.array([op.outside], np.float32), tensors[op.output].q)
            rounded = qparams.dequantize(outside, tensors[op.output].q).item()
            ops.append(replace(op, outside=rounded))
        else:
            ops.append(op)
    result = Network(net.name, tuple(ops), tensors, net.input, net.output, net.softmax)
    prove_int32(result)
    return result


def tensor_types(net: FloatNetwork, points: Mapping[str, QParams]) -> dict[str, Tensor]:
    """Types of all tensors: rounding points have scales, data movement passes them on.

    Raises:
        CalibrationError: the inputs of a Concat have different scales.
    """
    tensors = {net.input: Tensor(net.channels[net.input], "float32")}
    for op in net.ops:
        channels = net.channels[op.output]
        if op.output in net.float_tensors:
            tensors[op.output] = Tensor(channels, "float32")
        elif isinstance(op, FloatConv | QuantizeInput):
            tensors[op.output] = Tensor(channels, "int8", points[op.output])
        else:
            q, *others = (tensors[name].q for name in op.inputs)
            if any(other != q for other in others):
                raise CalibrationError(
                    f"the inputs {', '.join(op.inputs)} have different scales",
                    where=f"node {op.name}",
                    fix="calibrate them together, as `calibrate.choose` does",
                )
            tensors[op.output] = Tensor(channels, "int8", q)
    return tensors


def _integer_conv(op: FloatConv, x: QParams, rounded: RoundedWeights) -> Conv:
    bias = qparams.quantize_bias(op.bias, x.scale, rounded.scale)
    if np.abs(bias).max(initial=0) > qparams.INT32_MAX:
        channel = int(np.abs(bias).argmax())
        raise AccumulatorOverflowError(
            f"the bias of output channel {channel} is {bias[channel]} steps, beyond int32",
            where=f"node {op.name}",
            fix="the channel's weights are almost zero beside its bias: prune it, or rescale it",
        )
    return with_integers(op, rounded, bias.astype(np.int32))


def with_integers(op: FloatConv, rounded: RoundedWeights, bias: I32) -> Conv:
    """The same convolution on integers; bias [O] counts in steps of the accumulator."""
    return Conv(
        name=op.name,
        input=op.input,
        output=op.output,
        weight=rounded.weight,
        weight_scale=rounded.scale,
        bias=bias,
        strides=op.strides,
        pads=op.pads,
        dilations=op.dilations,
        groups=op.groups,
        steps=op.steps,
    )
