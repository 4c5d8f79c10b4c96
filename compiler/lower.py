"""From the integer network to a TVM module: one function a chain of operators, a Relax `main`.

Nothing here convolves in float32, and the image size is fixed: another size is another module of
the same network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from calib.qparams import input_divisor
from compiler.errors import UnsupportedOperatorError
from compiler.host import Host
from compiler.kernels import move, plain
from compiler.kernels.chain import Chain
from compiler.kernels.choose import conv_kernel
from compiler.kernels.epilogue import Epilogue, multiplier, segments
from compiler.kernels.isa import ISAS, Isa
from compiler.kernels.kernel import Constants, Kernel
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Read, Schedule, Stage, plan
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
    accumulator_bounds,
    output_size,
    prove_int32,
    sizes,
)

RING_BYTES = 4 << 20  # of the rings of one band
HALO_SHARE = 0.35  # of the work that bands may repeat
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


def lower(net: Network, size: Size, host: Host) -> tvm.IRModule:
    """The module of `net` for one image size.

    Args:
        size: height and width of the graph input.
    Returns:
        Relax `main` of one argument (float32 [1, C, H, W] or uint8 [1, H, W, C]) that calls integer
        functions; the weights are constants of the module.
    Raises:
        SizeError: the network does not fit this size.
        AccumulatorOverflowError: an int32 accumulator could overflow.
        UnsupportedOperatorError: an operator stands where it cannot be lowered.
    """
    return module(net, chains(net, size, host))


def chains(net: Network, size: Size, host: Host, *, fuse: bool = True) -> list[Chain]:
    """The chains of `net`, in the order in which `main` calls them.

    Args:
        fuse: False makes every operator a chain of its own.
    """
    prove_int32(net)
    isa = ISAS[host.isa]
    known = sizes(net, size)
    problem = Problem(net, known, _layouts(net, known, isa), isa, host.threads)
    items = _items(net)
    kernels = [LOWERING[type(item.op)](item, problem) for item in items]
    result: list[Chain] = []
    first = 0
    while first < len(items):
        last, schedule = _longest(problem, items if fuse else [], kernels, first)
        result.append(_chain(problem, kernels[first:last], schedule, len(result)))
        first = last
    return result


def _items(net: Network) -> list[Item]:
    """Needed operators in order; a DepthToSpace that alone consumes a conv is fused behind it."""
    consumers = _consumers(net)
    makers = {op.output: op for op in net.ops}
    fused = {
        op.input: op
        for op in net.ops
        if isinstance(op, DepthToSpace)
        and isinstance(makers.get(op.input), Conv)
        and len(consumers[op.input]) == 1
    }
    items: list[Item] = []
    needed = {net.output}
    for op in reversed(net.ops):
        behind = isinstance(op, DepthToSpace) and op.input in fused
        if op.output in needed:
            needed |= set(op.inputs)
            if not behind:
                items.insert(0, Item(op, fused.get(op.output) if isinstance(op, Conv) else None))
    return items


def _consumers(net: Network) -> dict[str, list[Op]]:
    consumers: dict[str, list[Op]] = {name: [] for name in net.tensors}
    for op in net.ops:
        for name in op.inputs:
            consumers[name].append(op)
    return consumers


def _layouts(net: Network, known: Mapping[str, Size], isa: Isa) -> dict[str, Layout]:
    """Layout of every int8 tensor: its border is what the convs that read it reach."""
    borders = {name: [0, 0, 0, 0] for name, t in net.tensors.items() if t.kind == "int8"}
    for conv in net.convs:
        (h, w), (rows, cols) = known[conv.input], output_size(conv, known[conv.input])
        (kh, kw), (sh, sw), (dh, dw) = conv.weight.shape[2:], conv.strides, conv.dilations
        top, left, _, _ = conv.pads
        reach = (
            top,
            left,
            (rows - 1) * sh - top + (kh - 1) * dh + 1 - h,
            (cols - 1) * sw - left + (kw - 1) * dw + 1 - w,
        )
        borders[conv.input] = [max(a, b) for a, b in zip(borders[conv.input], reach, strict=True)]
    return {
        name: Layout(
            net.tensors[name].channels,
            *known[name],
            left=left,
            right=right,
            top=top,
            bottom=bottom,
            fill=net.tensors[name].q.zero_point + isa.offset,
        )
        for name, (top, left, bottom, right) in borders.items()
    }


def _longest(
    p: Problem,
    items: list[Item],
    kernels: list[Kernel],
    first: int,
) -> tuple[int, Schedule]:
    """The longest chain from `first` that can be computed depth-first: its end and schedule."""
    best = plan([kernels[first].stage])
    assert best is not None, "one stage always has a schedule"
    end = first + 1
    for last in range(first + 2, len(items) + 1):
        part = kernels[first:last]
        inside = {k.stage.output for k in part[:-1]}
        if _read_later(items[last:], inside) or not inside <= p.layouts.keys():
            continue  # inside a chain are rows of integers only
        schedule = plan([k.stage for k in part])
        if schedule and _affordable(p, part, schedule):
            best, end = schedule, last
    return end, best


def _read_later(items: list[Item], tensors: set[str]) -> bool:
    return any(tensors & set(item.op.inputs) for item in items)


def _affordable(p: Problem, kernels: list[Kernel], schedule: Schedule) -> bool:
    """Rings fit the cache and bands repeat little work."""
    ring_bytes = sum(p.layouts[t].stride * rows for t, rows in schedule.rings.items())
    bands = min(p.threads, -(-kernels[-1].height // schedule.slots[-1].rows))
    repeated = total = 0.0
    for kernel, slot in zip(kernels, schedule.slots, strict=True):
        row = sum(value.nbytes for value in kernel.constants.values()) + 1.0  # work of a row
        halo = min((slot.end - slot.begin) * slot.rows, kernel.height)
        repeated += row * halo * (bands - 1)
        total += row * kernel.height
    return ring_bytes <= RING_BYTES and repeated <= HALO_SHARE * total


def _chain(p: Problem, kernels: list[Kernel], schedule: Schedule, index: int) -> Chain:
    made = {k.stage.output for k in kernels}
    inputs = dict.fromkeys(r.tensor for k in kernels for r in k.stage.reads if r.tensor not in made)
    output = kernels[-1].stage.output
    shapes = {name: _shape(p, name) for name in (*inputs, output)}
    return Chain(
        f"chain{index}",
        tuple(kernels),
        schedule,
        tuple(inputs),
        output,
        p.layouts,
        shapes,
        p.isa,
        p.threads,
    )


def _shape(p: Problem, name: str) -> tuple[tuple[int, ...], str]:
    tensor, (height, width) = p.net.tensors[name], p.sizes[name]
    match tensor.kind:
        case "int8":
            layout = p.layouts[name]
            return (layout.image_rows, layout.stride), p.isa.stored
        case "float32":
            return (1, tensor.channels, height, width), "float32"
        case "uint8":
            return (1, height, width, tensor.channels), "uint8"


def module(net: Network, parts: list[Chain]) -> tvm.IRModule:
    """Relax `main` over the functions of the chains, and `idle`, which does nothing."""
    builder = relax.BlockBuilder()
    shape, dtype = parts[0].shapes[net.input]
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            values = {net.input: x}
            for part in parts:
                function = builder.add_func(part.function(), part.name)
                arguments = [values[t] for t in part.inputs]
                arguments += [relax.const(np.ascontiguousarray(c)) for c in part.constants]
                out = relax.TensorType(*part.shapes[part.output])
                values[part.output] = builder.emit(relax.call_tir(function, arguments, out))
            result = builder.emit_output(values[net.output])
        builder.emit_func_output(result)
    with builder.function("idle", []):  # TVM keeps the result of the last call: this has none
        builder.emit_func_output(relax.ShapeExpr([]))
    return builder.get()


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
