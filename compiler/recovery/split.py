"""Residuals with a scale of their own: a cheap convolution is computed a second time for them.

The tensor behind a residual is read twice: by the next convolution and by the addition, which adds
it to a tensor of quite another range. One int8 tensor has to serve both, and equalization has to
give all three tensors the same channel scales; on Bicubic++ that doubles the rounding noise.
Where the convolution that makes the tensor is a small part of the network, computing it twice
unties them: each copy is rounded once, from exact sums, by scales that suit its reader.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.lowparts import with_low_parts
from compiler.network import Residual

MAX_SHARE = 0.03  # of the network's weights (1.7 % on Bicubic++ 3x)


def with_residuals(net: FloatNetwork, *, split: bool, bits: int) -> FloatNetwork:
    """The same function, its residuals held as a spec asks: see below, and `lowparts`."""
    net = split_residuals(net) if split else net
    return with_low_parts(net) if bits == 16 else net


def split_residuals(net: FloatNetwork, max_share: float = MAX_SHARE) -> FloatNetwork:
    """The same function, with a copy of each cheap convolution whose output is also a residual.

    Args:
        max_share: largest share of the network's weights that one copy may add.
    """
    budget = max_share * sum(conv.weight.size for conv in net.convs)
    read = {conv.input for conv in net.convs}
    residuals = {s.tensor for conv in net.convs for s in conv.steps if isinstance(s, Residual)}
    copied = {
        conv.output: _copy(conv)
        for conv in net.convs
        if conv.output in residuals & read and conv.weight.size <= budget
    }
    ops: list[FloatOp] = []
    for op in net.ops:
        ops.append(_reading(op, copied) if isinstance(op, FloatConv) else op)
        if op.output in copied:
            ops.append(_reading(copied[op.output], copied))
    channels = dict(net.channels) | {c.output: net.channels[o] for o, c in copied.items()}
    return replace(net, ops=tuple(ops), channels=channels)


def _copy(conv: FloatConv) -> FloatConv:
    return replace(conv, name=f"{conv.name}_residual", output=f"{conv.output}_residual")


def _reading(conv: FloatConv, copied: dict[str, FloatConv]) -> FloatConv:
    """The convolution, its residuals taken from the copies."""
    steps = tuple(
        replace(s, tensor=copied[s.tensor].output)
        if isinstance(s, Residual) and s.tensor in copied
        else s
        for s in conv.steps
    )
    return replace(conv, steps=steps)
