"""The golden model: the integer semantics in plain NumPy, slow and obvious.

Every accumulator is exact: integers are multiplied and summed in binary64, where each product and
each partial sum is an integer below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from calib import qparams
from calib.qparams import F32, F64
from compiler.network import (
    Activation,
    Concat,
    Conv,
    ConvChain,
    DepthToSpace,
    MaxPool,
    Network,
    Op,
    QuantizeInput,
    Residual,
    ResizeNearest,
    Step,
    Tensor,
    output_size,
    sizes,
)

Array = NDArray[np.generic]  # one tensor, [C, H, W]
Values = dict[str, Array]
_BAND_BYTES = 1 << 26  # of im2col columns at a time


def run(net: Network, x: Array) -> Array:
    """The network's answer to one input, its softmax included.

    Args:
        x: float32 [1, C, H, W], or uint8 [1, H, W, C] where the network takes frames.
    Returns:
        float32 [1, C, H, W] or uint8 [1, H, W, C].
    Raises:
        SizeError: the network does not fit an image of this size.
    """
    values: Values = {}
    for name, value in trace(net, x):
        values[name] = value
    y = values[net.output]
    answer = (y.transpose(1, 2, 0) if net.output_tensor.kind == "uint8" else y)[None]
    return net.on_host(answer)


def trace(net: Network, x: Array) -> Iterator[tuple[str, Array]]:
    """Every tensor of the integer network in topological order, as (name, [C, H, W])."""
    frames = net.input_tensor.kind == "uint8"
    values: Values = {net.input: x[0].transpose(2, 0, 1) if frames else x[0]}
    sizes(net, (values[net.input].shape[1], values[net.input].shape[2]))
    for op in net.ops:
        values[op.output] = GOLDEN[type(op)](op, net, values)
        yield op.output, values[op.output]


def _quantize_input(op: QuantizeInput, net: Network, values: Values) -> Array:
    x = values[op.input]
    if op.table is None:
        q = net.tensors[op.output].q
        return qparams.quantize_normalized(x.astype(np.float32), op.mean, op.std, q)
    return np.stack([op.table[c][x[c]] for c in range(len(x))])


def _conv(op: Conv, net: Network, values: Values) -> Array:
    x = net.tensors[op.input].q
    out = net.tensors[op.output]
    padded = _pad(values[op.input], op.pads, net.padding(op.input))
    _, height, width = values[op.input].shape
    rows, cols = output_size(op, (height, width))
    multiplier = _multiplier(op, x.scale, out)
    residuals = {name: values[name] for name in op.inputs[1:]}
    result = np.empty((len(op.weight), rows, cols), out.kind)
    for top, bottom in _bands(op, rows, cols):
        acc = accumulate(op, padded, x.zero_point, top, bottom, cols)
        with np.errstate(over="ignore", invalid="ignore"):  # infinities are values like others
            v = acc.astype(np.float32) * multiplier[:, None, None]
            for step in op.steps:
                v = _step(step, v, net, out, {k: r[:, top:bottom] for k, r in residuals.items()})
        result[:, top:bottom] = _store(v, out)
    return result


def accumulate(
    op: Conv, padded: Array, zero_point: int, top: int, bottom: int, cols: int
) -> NDArray[np.int64]:
    """The exact accumulators of output rows [top, bottom), as int64 [O, bottom - top, cols]."""
    weight = op.weight.astype(np.float64)
    group_out, group_in = len(weight) // op.groups, weight.shape[1]
    acc = np.empty((len(weight), bottom - top, cols), np.float64)
    for g in range(op.groups):
        inputs = slice(g * group_in, (g + 1) * group_in)
        outputs = slice(g * group_out, (g + 1) * group_out)
        columns = _im2col(op, padded[inputs], zero_point, top, bottom, cols)
        acc[outputs] = (weight[outputs].reshape(group_out, -1) @ columns).reshape(
            group_out, bottom - top, cols
        )
    return acc.astype(np.int64) + op.bias.astype(np.int64)[:, None, None]


def _im2col(op: ConvChain, padded: Array, zero_point: int, top: int, bottom: int, cols: int) -> F64:
    """Columns of (q_x - z_x): float64 [I * kh * kw, rows * cols], rows ordered as the weights."""
    (kh, kw), (sh, sw), (dh, dw) = op.weight.shape[2:], op.strides, op.dilations
    rows = bottom - top
    out = np.empty((len(padded), kh, kw, rows, cols), np.float64)
    for i in range(kh):
        first = top * sh + i * dh
        for j in range(kw):
            window = padded[:, first : first + (rows - 1) * sh + 1 : sh]
            out[:, i, j] = window[:, :, j * dw : j * dw + (cols - 1) * sw + 1 : sw]
    out -= zero_point
    return out.reshape(len(padded) * kh * kw, rows * cols)


def columns(op: ConvChain, x: Array, zero_point: int, outside: float) -> F64:
    """All im2col columns of x - zero_point.

    Args:
        x: int8 or float32 [I, H, W], the inputs of one group.
        outside: what stands outside the image.
    Returns:
        binary64 [I * kh * kw, output rows * output columns], rows ordered as the weights.
    """
    rows, cols = output_size(op, (x.shape[1], x.shape[2]))
    return _im2col(op, _pad(x, op.pads, outside), zero_point, 0, rows, cols)


def _bands(op: Conv, rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """Splits output rows so that the columns of one band stay below `_BAND_BYTES`."""
    row_bytes = 8 * int(np.prod(op.weight.shape[1:])) * cols
    step = max(1, _BAND_BYTES // row_bytes)
    for top in range(0, rows, step):
        yield top, min(top + step, rows)


def _pad(x: Array, pads: tuple[int, int, int, int], fill: float) -> Array:
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=fill)


def _multiplier(op: Conv, s_x: float, out: Tensor) -> F32:
    match out.kind:
        case "int8":
            return qparams.requantize_multiplier(s_x, op.weight_scale, out.q.scale)
        case "float32":
            return qparams.requantize_multiplier(s_x, op.weight_scale)
        case "uint8":
            return qparams.uint8_multiplier(s_x, op.weight_scale)


def _step(step: Step, v: F32, net: Network, out: Tensor, residuals: Values) -> F32:
    if isinstance(step, Activation):
        alpha = step.alpha.astype(np.float32)[:, None, None]
        return np.where(v >= 0, v, v * alpha)
    r = net.tensors[step.tensor].q
    centred = residuals[step.tensor].astype(np.int32) - np.int32(r.zero_point)
    return qparams.fma(centred.astype(np.float32), residual_multiplier(step, r.scale, out), v)


def residual_multiplier(step: Residual, s_r: float, out: Tensor) -> np.float32:
    """R of a residual of scale s_r that is added, or taken away, in the units of `out`."""
    match out.kind:
        case "int8":
            r = qparams.residual_multiplier(s_r, out.q.scale)
        case "float32":
            r = qparams.residual_multiplier(s_r)
        case "uint8":
            r = np.float32(np.float64(qparams.UINT8_MAX) * np.float64(np.float32(s_r)))
    return -r if step.negative else r


def _store(v: F32, out: Tensor) -> Array:
    match out.kind:
        case "int8":
            z = out.q.zero_point
            return qparams.round_clamp(v, z, qparams.INT8_MIN, qparams.INT8_MAX).astype(np.int8)
        case "float32":
            return v
        case "uint8":
            return qparams.round_clamp(v, 0, 0, qparams.UINT8_MAX).astype(np.uint8)


def _depth_to_space(op: DepthToSpace, net: Network, values: Values) -> Array:
    x, b = values[op.input], op.block
    channels, height, width = x.shape
    depth = channels // (b * b)
    if op.mode == "CRD":
        y = x.reshape(depth, b, b, height, width).transpose(0, 3, 1, 4, 2)
    else:
        y = x.reshape(b, b, depth, height, width).transpose(2, 3, 0, 4, 1)
    return y.reshape(depth, height * b, width * b)


def _concat(op: Concat, net: Network, values: Values) -> Array:
    return np.concatenate([values[name] for name in op.inputs])


def _max_pool(op: MaxPool, net: Network, values: Values) -> Array:
    x = values[op.input]
    rows, cols = output_size(op, (x.shape[1], x.shape[2]))
    least = {"int8": qparams.INT8_MIN, "uint8": 0, "float32": -np.inf}[net.tensors[op.input].kind]
    padded = _pad(x, op.pads, least)
    (kh, kw), (sh, sw) = op.kernel, op.strides
    windows = [
        padded[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    best: Array = np.max(windows, axis=0)
    return best


def _resize_nearest(op: ResizeNearest, net: Network, values: Values) -> Array:
    return values[op.input].repeat(op.factors[0], axis=1).repeat(op.factors[1], axis=2)


GOLDEN: dict[type[Op], Callable[..., Array]] = {
    QuantizeInput: _quantize_input,
    Conv: _conv,
    DepthToSpace: _depth_to_space,
    Concat: _concat,
    MaxPool: _max_pool,
    ResizeNearest: _resize_nearest,
}
