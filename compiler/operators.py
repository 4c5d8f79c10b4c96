"""How each ONNX operator becomes a part of the float network; what has no place in it is refused.

Supporting one more operator starts with one row in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx

from calib.qparams import F32, F64
from compiler.chains import Chains, attributes_of, invalid, unsupported
from compiler.floatnet import FloatConv
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
from compiler.padding import pad, padding_before, pads_of


def _conv(reader: Chains, node: onnx.NodeProto) -> None:
    weight = reader.constant(node, 1).astype(np.float32)
    if weight.ndim != 4:
        raise unsupported(node, f"its weight has {weight.ndim} dimensions; only 2-D is defined")
    out = len(weight)
    bias = reader.constant(node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(out)
    attributes = attributes_of(node)
    dilations = _pair(attributes.get("dilations", [1, 1]))
    kernel = (weight.shape[2], weight.shape[3])
    strides = _pair(attributes.get("strides", [1, 1]))
    padding = padding_before(reader, node, pads_of(node, kernel, strides, dilations))
    conv = FloatConv(
        name=reader.label(node),
        input=padding.source,
        output=node.output[0],
        weight=weight,
        bias=bias.astype(np.float32),
        strides=strides,
        pads=padding.pads,
        dilations=dilations,
        groups=int(attributes.get("group", 1)),
    )
    channels = reader.channels[padding.source]
    _require_fit(node, conv, channels, _pair(attributes.get("kernel_shape", kernel)))
    reader.add(conv, node, out)
    reader.chains[conv.output] = len(reader.ops) - 1


def _require_fit(node: onnx.NodeProto, conv: FloatConv, channels: int, kernel: Size) -> None:
    """Raises ModelError where weight, bias, attributes and input do not belong together.

    Neither ONNX's shape inference nor ONNX Runtime's blocked kernels notice that.
    """
    out, per_group = conv.weight.shape[:2]
    grouped = conv.groups > 0 and per_group * conv.groups == channels and out % conv.groups == 0
    shaped = conv.weight.size > 0 and conv.kernel == kernel and conv.bias.shape == (out,)
    if not (grouped and shaped):
        raise invalid(
            node,
            f"its weight {list(conv.weight.shape)} and bias {list(conv.bias.shape)} do not fit "
            f"{channels} input channels, {conv.groups} groups and a window of {list(kernel)}",
            "correct the channels in frontend.shape, or export the network again",
        )


def _activation(reader: Chains, node: onnx.NodeProto) -> None:
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
        alpha = np.array([attributes_of(node).get("alpha", default)], np.float32)
    reader.grow(node, 0, _followed_by(Activation(alpha)))


def _add_or_subtract(reader: Chains, node: onnx.NodeProto) -> None:
    known = [name for name in node.input if name in reader.names]
    if len(known) == 1:
        _scale_and_shift(reader, node)
        return
    negative = node.op_type == "Sub"  # nothing can be taken from a chain but at its end
    candidates = [i for i, name in enumerate(node.input) if reader.is_open(name)]
    candidates = [i for i in candidates if not (negative and i)]
    if len(known) != 2 or not candidates:
        raise unsupported(node, "it is defined only as the epilogue of a convolution")
    later = max(candidates, key=lambda i: reader.chains[reader.names[node.input[i]]])
    residual = reader.names[node.input[1 - later]]
    if reader.channels[residual] != reader.channels[reader.names[node.input[later]]]:
        raise unsupported(node, "its operands differ in channels; broadcasting is not defined")
    reader.chains.pop(residual, None)
    reader.grow(node, later, _followed_by(Residual(residual, negative)))


def _followed_by(step: Step) -> Callable[[FloatConv], FloatConv]:
    return lambda conv: replace(conv, steps=(*conv.steps, step))


def _scale_and_shift(reader: Chains, node: onnx.NodeProto) -> None:
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


def _gain_and_offset(reader: Chains, node: onnx.NodeProto, index: int) -> tuple[F64, F64]:
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
                raise invalid(node, "it divides by zero")
            return 1 / constant, zero


def _normalized(
    reader: Chains, node: onnx.NodeProto, op: QuantizeInput, gain: F64, offset: F64
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


def _depth_to_space(reader: Chains, node: onnx.NodeProto) -> None:
    attributes = attributes_of(node)
    source, block = reader.tensor(node, 0), int(attributes["blocksize"])
    mode = attributes.get("mode", "DCR")
    channels, rest = divmod(reader.channels[source], block * block)
    if rest or not channels or mode not in ("CRD", "DCR"):
        raise invalid(
            node,
            f"it cannot make blocks of {block} in mode {mode} of "
            f"{reader.channels[source]} channels",
        )
    op = DepthToSpace(reader.label(node), source, node.output[0], block, mode)
    reader.add(op, node, channels)


def _concat(reader: Chains, node: onnx.NodeProto) -> None:
    if attributes_of(node)["axis"] not in (1, -3):
        raise unsupported(node, "only a Concat of channels (axis 1) is defined")
    sources = tuple(reader.tensor(node, i) for i in range(len(node.input)))
    channels = sum(reader.channels[s] for s in sources)
    reader.add(Concat(reader.label(node), sources, node.output[0]), node, channels)


def _max_pool(reader: Chains, node: onnx.NodeProto) -> None:
    attributes = attributes_of(node)
    if attributes.get("ceil_mode", 0) or set(attributes.get("dilations", [1])) != {1}:
        raise unsupported(node, "ceil_mode and dilations are not defined")
    if len(node.output) > 1:
        raise unsupported(node, "its second output, the indices, is not defined")
    source = reader.tensor(node, 0)
    kernel = _pair(attributes["kernel_shape"])
    strides = _pair(attributes.get("strides", [1, 1]))
    pads = pads_of(node, kernel, strides, (1, 1))
    if max(pads[0], pads[2]) >= kernel[0] or max(pads[1], pads[3]) >= kernel[1]:
        raise unsupported(node, f"its padding {pads} is not smaller than its window {kernel}")
    op = MaxPool(reader.label(node), source, node.output[0], kernel, strides, pads)
    reader.add(op, node, reader.channels[source])


def _resize(reader: Chains, node: onnx.NodeProto) -> None:
    attributes = attributes_of(node)
    nearest = attributes.get("mode", "nearest") == "nearest"
    floor = (
        attributes.get("coordinate_transformation_mode", "half_pixel") == "asymmetric"
        and attributes.get("nearest_mode", "round_prefer_floor") == "floor"
    )
    if not (nearest and floor) or len(node.input) < 3 or not node.input[2]:
        raise unsupported(node, "only nearest, asymmetric, floor, by constant scales is defined")
    scales = reader.constant(node, 2)
    whole = (scales == np.rint(scales)) & (scales >= 1)
    if scales.shape != (4,) or tuple(scales[:2]) != (1, 1) or not whole.all():
        raise unsupported(node, f"its scales {scales.tolist()} are not whole factors")
    source = reader.tensor(node, 0)
    factors = (int(scales[2]), int(scales[3]))
    op = ResizeNearest(reader.label(node), source, node.output[0], factors)
    reader.add(op, node, reader.channels[source])


def _softmax(reader: Chains, node: onnx.NodeProto) -> None:
    """The head: no operator of the integer network, which ends at its input."""
    if attributes_of(node).get("axis", -1) not in (1, -3):
        raise unsupported(node, "only a Softmax over the channels (axis 1) is defined")
    if node.output[0] != reader.output.name or reader.uses[node.output[0]] != 1:
        raise unsupported(node, "a Softmax is defined only as the last operator, read by no other")
    reader.names[node.output[0]] = reader.tensor(node, 0)
    reader.softmax = True


def _pair(values: list[int]) -> Size:
    return int(values[0]), int(values[1])


READERS: dict[str, Callable[[Chains, onnx.NodeProto], None]] = {
    "Conv": _conv,
    "Relu": _activation,
    "LeakyRelu": _activation,
    "PRelu": _activation,
    "Add": _add_or_subtract,
    "Sub": _add_or_subtract,
    "Mul": _scale_and_shift,
    "Div": _scale_and_shift,
    "DepthToSpace": _depth_to_space,
    "Concat": _concat,
    "MaxPool": _max_pool,
    "Pad": pad,
    "Resize": _resize,
    "Softmax": _softmax,
}
