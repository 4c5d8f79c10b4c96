"""From the integer network to a TVM module: one function a chain of operators, a Relax `main`.

Nothing here convolves in float32, and the image size is fixed: another size is another module of
the same network.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax

from compiler.accumulators import prove_int32
from compiler.host import Host
from compiler.kernels.blocks import BlockKernel, with_low
from compiler.kernels.chain import Chain
from compiler.kernels.isa import ISAS, Isa
from compiler.kernels.kernel import Kernel
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Schedule, plan
from compiler.lowparts import low_parts
from compiler.network import (
    Conv,
    DepthToSpace,
    Network,
    Op,
    Size,
    output_size,
    sizes,
)
from compiler.rules import LOWERING, Item, Problem

RING_BYTES = 4 << 20  # of the rings of one band
HALO_SHARE = 0.35  # of the work that bands may repeat


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
        last = _longest(problem, items if fuse else [], kernels, first)
        part = _merged(net, kernels[first:last])
        result.append(_chain(problem, part, len(result)))
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
            fill=net.padding(name) + isa.offset,
        )
        for name, (top, left, bottom, right) in borders.items()
    }


def _longest(
    p: Problem,
    items: list[Item],
    kernels: list[Kernel],
    first: int,
) -> int:
    """The end of the longest chain from `first` that can be computed depth-first."""
    end = first + 1
    for last in range(first + 2, len(items) + 1):
        part = kernels[first:last]
        inside = {k.stage.output for k in part[:-1]}
        if _read_later(items[last:], inside) or not inside <= p.layouts.keys():
            continue  # inside a chain are rows of integers only
        schedule = plan([k.stage for k in part])
        if schedule and _affordable(p, part, schedule):
            end = last
    return end


def _merged(net: Network, kernels: list[Kernel]) -> list[Kernel]:
    """The kernels of a chain, those of low parts merged into those of the convs they repeat.

    Where nothing else in the chain reads what a conv makes, its rows have no place there.
    """
    made = {k.stage.output: k for k in kernels[:-1] if isinstance(k, BlockKernel)}
    merged: dict[str, Kernel] = {
        high: with_low(made[high], made[low])
        for low, high in low_parts(net).items()
        if low in made and high in made and _read_in(kernels, high, but=made[low])
    }
    gone = {kernel.stage.also for kernel in merged.values()}
    return [merged.get(k.stage.output, k) for k in kernels if k.stage.output not in gone]


def _read_in(kernels: list[Kernel], tensor: str, *, but: Kernel) -> bool:
    return any(r.tensor == tensor for k in kernels if k is not but for r in k.stage.reads)


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


def _chain(p: Problem, kernels: list[Kernel], index: int) -> Chain:
    schedule = plan([k.stage for k in kernels])
    assert schedule is not None, "one stage has one, and so have those of a chain, merged or not"
    made = {output for k in kernels for output in k.stage.outputs}
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
