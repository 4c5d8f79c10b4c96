"""Lowering rules: the kernel of each operator of the integer network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from calib.qparams import input_divisor
from compiler.accumulators import accumulator_bounds
from compiler.errors import UnsupportedOperatorError
from compiler.kernels import move, plain
from compiler.kernels.choose import conv_kernel
from compiler.kernels.epilogue import Epilogue, multiplier, segments
from compiler.kernels.isa import Isa
from compiler.kernels.kernel import Constants, Kernel
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Read, Stage
from compiler.network import (
    Concat,
    Conv,
    DepthToSpace,
    Kind,
    MaxPool,
    Network,
    Op,
    QuantizeInput,
    ResizeNearest,
    Size,
    output_size,
)

Row = tuple[Stage, int, int, Isa, Constants, str]  # fields of a `move.RowKernel`


@dataclass(frozen=True, eq=False)
class Problem:
    """A network at one size for one host, with what every lowering rule needs."""

    net: Network
    sizes: Mapping[str, Size]
    layouts: Mapping[str, Layout]
    isa: Isa
    threads: int

    def zero(self, tensor: str) -> int:
        """The stored form of a real zero of an int8 tensor."""
        return self.net.tensors[tensor].q.zero_point + self.isa.offset


@dataclass(frozen=True, eq=False)
class Item:
    """One operator to lower: a node of the network, with the pixel shuffle fused behind it."""

    op: Op
    shuffle: DepthToSpace | None = None

    @property
    def output(self) -> str:
        """The tensor that it writes."""
        return self.shuffle.output if self.shuffle else self.op.output


def _lower_input(item: Item, p: Problem) -> Kernel:
    op = item.op
    assert isinstance(op, QuantizeInput)
    height, width = p.sizes[op.input]
    stage = Stage(op.name, (Read(op.input),), op.output)
    if op.table is None:
        q, channels = p.net.tensors[op.output].q, p.net.tensors[op.input].channels
        divisor = input_divisor(op.std, q.scale)
        mean, divisor = (np.broadcast_to(v, channels) for v in (op.mean, divisor))
        return move.Quantize(stage, height, width, p.isa, {}, "division", q, mean, divisor)
    if line := move.line_through(op.table):
        return move.Line(stage, height, width, p.isa, {}, "table, as a line", *line)
    return move.Lookup(stage, height, width, p.isa, move.table_constants(op, p.isa), "table")


def _lower_conv(item: Item, p: Problem) -> Kernel:
    op = item.op
    assert isinstance(op, Conv)
    x = p.net.tensors[op.input].q
    size = output_size(op, p.sizes[op.input])
    span = (op.weight.shape[2] - 1) * op.dilations[0] + 1
    reads = (Read(op.input, op.strides[0], op.pads[0], span), *map(Read, op.inputs[1:]))
    block = item.shuffle.block if item.shuffle else 1
    out = p.net.tensors[op.output]
    e = Epilogue(
        p.isa,
        op,
        out,
        {r: p.net.tensors[r] for r in op.inputs[1:]},
        block,
        segments(len(op.weight), out.kind == "float32", item.shuffle),
        multiplier(op, x.scale, out),
        float(accumulator_bounds(op, x).max()),
    )
    return conv_kernel(reads, item.output, size, e, p.layouts[op.input], x)


def _lower_shuffle(item: Item, p: Problem) -> Kernel:
    op = item.op
    assert isinstance(op, DepthToSpace)
    kind, depth = _kind(item, p), p.net.tensors[op.output].channels
    stage = Stage(op.name, (Read(op.input),), op.output, op.block)
    row: Row = (stage, *p.sizes[op.input], p.isa, {}, "copy")
    return move.Shuffle(*row, op) if kind == "int8" else plain.PlainShuffle(*row, kind, op, depth)


def _lower_concat(item: Item, p: Problem) -> Kernel:
    op = item.op
    assert isinstance(op, Concat)
    kind, channels = _kind(item, p), tuple(p.net.tensors[name].channels for name in op.inputs)
    stage = Stage(op.name, tuple(map(Read, dict.fromkeys(op.inputs))), op.output)
    row: Row = (stage, *p.sizes[op.output], p.isa, {}, "copy")
    return move.Join(*row, op) if kind == "int8" else plain.PlainJoin(*row, kind, op, channels)


def _lower_pool(item: Item, p: Problem) -> Kernel:
    op = item.op
    assert isinstance(op, MaxPool)
    if any(pad >= op.kernel[i % 2] for i, pad in enumerate(op.pads)):
        raise UnsupportedOperatorError(
            f"the pads {op.pads} of a {op.kernel} pool are as large as its window",
            where=f"node {op.name}",
            fix="use pads smaller than the window",
        )
    kind, size = _kind(item, p), p.sizes[op.input]
    reads = (Read(op.input, op.strides[0], op.pads[0], op.kernel[0]),)
    stage = Stage(op.name, reads, op.output)
    row: Row = (stage, *p.sizes[op.output], p.isa, {}, "maximum")
    if kind == "int8":
        return move.Pool(*row, op, size)
    return plain.PlainPool(*row, kind, op, p.net.tensors[op.input].channels, size)


def _lower_upscale(item: Item, p: Problem) -> Kernel:
    op = item.op
    assert isinstance(op, ResizeNearest)
    kind, channels = _kind(item, p), p.net.tensors[op.input].channels
    stage = Stage(op.name, (Read(op.input),), op.output, op.factors[0])
    row: Row = (stage, *p.sizes[op.input], p.isa, {}, "copy")
    return (
        move.Upscale(*row, op) if kind == "int8" else plain.PlainUpscale(*row, kind, op, channels)
    )


def _kind(item: Item, p: Problem) -> Kind:
    """The element kind of an operator that moves data, the same before and after."""
    kind, *others = (p.net.tensors[name].kind for name in (item.output, *item.op.inputs))
    if set(others) != {kind}:
        raise UnsupportedOperatorError(
            f"{type(item.op).__name__} makes {kind} data from {', '.join(others)} here",
            where=f"node {item.op.name}",
            fix="let a convolution come before it that nothing else reads",
        )
    return kind


LOWERING: dict[type[Op], Callable[[Item, Problem], Kernel]] = {
    QuantizeInput: _lower_input,
    Conv: _lower_conv,
    DepthToSpace: _lower_shuffle,
    Concat: _lower_concat,
    MaxPool: _lower_pool,
    ResizeNearest: _lower_upscale,
}
