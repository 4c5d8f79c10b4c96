"""Reverse mode through a float network: J^T v for every tensor, by one pass from the output.

Exact where the network is linear, that is anywhere but at the kinks of its activations and at the
ties of a MaxPool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from calib.qparams import F32, F64
from compiler import reference
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import (
    Activation,
    Concat,
    ConvChain,
    DepthToSpace,
    MaxPool,
    Residual,
    ResizeNearest,
    output_size,
)

_Values = Mapping[str, F32]
_Cotangents = Iterator[tuple[str, F64]]  # an input of an operator, and what it gets


class Adjoint:
    """J^T of a network at one image.

    Args:
        values: of all tensors, float32 [C, H, W] (`FloatValues`).
    """

    def __init__(self, net: FloatNetwork, values: _Values) -> None:
        self._net, self._values = net, values
        self._slopes = {conv.output: _slopes(conv, net, values) for conv in net.convs}

    def of(self, v: F64) -> dict[str, F64]:
        """J^T v of every tensor that an operator computes: binary64 [C, H, W] each.

        Args:
            v: in the shape of the output, binary64 [C, H, W].
        """
        found = {op.output: np.zeros(self._values[op.output].shape) for op in self._net.ops}
        found[self._net.output] += v
        for op in reversed(self._net.ops[1:]):
            g = found[op.output]
            if isinstance(op, FloatConv):
                parts = _conv(op, self._slopes[op.output], self._values, g)
            else:
                parts = _MOVES[type(op)](op, self._values, g)
            for name, part in parts:
                found[name] += part
        return found


def _conv(op: FloatConv, slopes: Sequence[F64], values: _Values, g: F64) -> _Cotangents:
    left = list(slopes)
    for step in reversed(op.steps):
        if isinstance(step, Residual):
            yield step.tensor, -g if step.negative else g
        else:
            g = g * left.pop()
    rows, inputs = len(op.weight) // op.groups, op.weight.shape[1]
    shape = values[op.input].shape[1:]
    parts = []
    for k in range(op.groups):
        part = slice(k * rows, (k + 1) * rows)
        weight = op.weight[part].reshape(rows, -1).astype(np.float64)
        parts.append(_from_columns(op, weight.T @ g[part].reshape(rows, -1), (inputs, *shape)))
    yield op.input, np.concatenate(parts)


def _slopes(op: FloatConv, net: FloatNetwork, values: _Values) -> list[F64]:
    """What each activation of the epilogue multiplies by: binary64 [C, H, W]."""
    if not any(isinstance(step, Activation) for step in op.steps):
        return []
    x, outside = values[op.input], net.outside(op.input)
    rows, inputs = len(op.weight) // op.groups, op.weight.shape[1]
    sums = [
        op.weight[k * rows : (k + 1) * rows].reshape(rows, -1).astype(np.float64)
        @ reference.columns(op, x[k * inputs : (k + 1) * inputs], 0, outside)
        for k in range(op.groups)
    ]
    shape = values[op.output].shape
    v: F64 = np.concatenate(sums).reshape(shape) + op.bias.astype(np.float64)[:, None, None]
    slopes = []
    for step in op.steps:
        if isinstance(step, Residual):
            v = v - values[step.tensor] if step.negative else v + values[step.tensor]
        else:
            slopes.append(np.where(v >= 0, 1.0, step.alpha.astype(np.float64)[:, None, None]))
            v = v * slopes[-1]
    return slopes


def _from_columns(op: ConvChain, columns: F64, shape: tuple[int, ...]) -> F64:
    """The transpose of `reference.columns`: sums [I * kh * kw, positions] to [I, H, W]."""
    inputs, height, width = shape
    (kh, kw), (sh, sw), (dh, dw) = op.kernel, op.strides, op.dilations
    rows, cols = output_size(op, (height, width))
    top, left, bottom, right = op.pads
    padded = np.zeros((inputs, height + top + bottom, width + left + right))
    taps = columns.reshape(inputs, kh, kw, rows, cols)
    for i in range(kh):
        for j in range(kw):
            window = padded[:, i * dh : i * dh + (rows - 1) * sh + 1 : sh]
            window[:, :, j * dw : j * dw + (cols - 1) * sw + 1 : sw] += taps[:, i, j]
    return padded[:, top : top + height, left : left + width]


def _depth_to_space(op: DepthToSpace, values: _Values, g: F64) -> _Cotangents:
    b, (depth, height, width) = op.block, g.shape
    blocks = g.reshape(depth, height // b, b, width // b, b)
    order = (0, 2, 4, 1, 3) if op.mode == "CRD" else (2, 4, 0, 1, 3)
    yield op.input, blocks.transpose(order).reshape(values[op.input].shape)


def _concat(op: Concat, values: _Values, g: F64) -> _Cotangents:
    ends = np.cumsum([len(values[name]) for name in op.inputs])
    yield from zip(op.inputs, np.split(g, ends[:-1]), strict=True)


def _max_pool(op: MaxPool, values: _Values, g: F64) -> _Cotangents:
    """To the first of the largest values of each window."""
    x, y = values[op.input], values[op.output]
    top, left, bottom, right = op.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    result, unclaimed = np.zeros(padded.shape), np.ones(y.shape, np.bool_)
    (kh, kw), (sh, sw), (_, rows, cols) = op.kernel, op.strides, y.shape
    for i in range(kh):
        for j in range(kw):
            at = np.s_[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
            won = unclaimed & (padded[at] == y)
            result[at] += np.where(won, g, 0)
            unclaimed &= ~won
    yield op.input, result[:, top : top + x.shape[1], left : left + x.shape[2]]


def _resize_nearest(op: ResizeNearest, values: _Values, g: F64) -> _Cotangents:
    channels, height, width = values[op.input].shape
    fy, fx = op.factors
    yield op.input, g.reshape(channels, height, fy, width, fx).sum(axis=(2, 4))


_MOVES: dict[type, Callable[[Any, _Values, F64], _Cotangents]] = {
    DepthToSpace: _depth_to_space,
    Concat: _concat,
    MaxPool: _max_pool,
    ResizeNearest: _resize_nearest,
}
