"""Layers that read 16 bits: what the rounding of their input lost is convolved as well.

On an int8 accelerator this is what a layer of higher precision can be: its input in two int8
tensors, y and the low part (`lowparts`), each convolved by the same int8 weights, the sums added in
the epilogue before anything is rounded. It costs the layer once more, and the convolution before it
once more, for the low part. Weights need no such care, `rounding: gptq` leaves little of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compiler.errors import UnsupportedOperatorError
from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.lowparts import low_parts
from compiler.network import DepthToSpace, Residual, ResizeNearest
from compiler.recovery.split import low_part


def with_wide_layers(net: FloatNetwork, layers: Sequence[str]) -> FloatNetwork:
    """The same function, the named convolutions reading 16 bits.

    Raises:
        UnsupportedOperatorError: what a layer reads has no low part.
    """
    for name in (conv.name for conv in net.convs if conv.name in layers):
        net = _widened(net, name)
    return net


def _widened(net: FloatNetwork, name: str) -> FloatNetwork:
    (conv,) = (c for c in net.convs if c.name == name)
    net, low = _low_of(net, conv.input, conv)
    correction = replace(
        conv,
        name=net.unused(f"{conv.name}_correction"),
        input=low,
        output=net.unused(f"{conv.output}_correction"),
        bias=np.zeros_like(conv.bias),
        steps=(),
    )
    alike = {conv.output, *(part for part, high in low_parts(net).items() if high == conv.output)}

    def corrected(op: FloatOp) -> FloatOp:
        if not isinstance(op, FloatConv) or op.output not in alike:
            return op
        return replace(op, steps=(Residual(correction.output), *op.steps))

    net = replace(net, ops=tuple(map(corrected, net.ops)))
    at = next(i for i, op in enumerate(net.ops) if op.output in alike)
    return _with(net, at, correction, len(conv.weight))


def _low_of(net: FloatNetwork, tensor: str, reader: FloatConv) -> tuple[FloatNetwork, str]:
    """The low part of a tensor, and the network that has it."""
    known = {high: low for low, high in low_parts(net).items()}
    if tensor in known:
        return net, known[tensor]
    maker = next(op for op in net.ops if op.output == tensor)
    made: FloatOp
    match maker:
        case FloatConv():
            made = low_part(net, maker)
        case DepthToSpace() | ResizeNearest():
            net, low = _low_of(net, maker.input, reader)
            name, output = (net.unused(f"{n}_low") for n in (maker.name, tensor))
            made = replace(maker, name=name, input=low, output=output)
        case _:
            raise UnsupportedOperatorError(
                f"{reader.name} reads {tensor}, which no convolution rounds, so that there is no "
                "low part of it to read",
                where=f"node {reader.name}",
                fix="take it out of backend.quantize.wide_layers (images: see centre_image)",
            )
    at = next(i for i, op in enumerate(net.ops) if op.output == tensor) + 1
    return _with(net, at, made, net.channels[tensor]), made.output


def _with(net: FloatNetwork, at: int, op: FloatOp, channels: int) -> FloatNetwork:
    ops = (*net.ops[:at], op, *net.ops[at:])
    return replace(net, ops=ops, channels={**net.channels, op.output: channels})
