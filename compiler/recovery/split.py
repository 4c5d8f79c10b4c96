"""Residuals that a cheap convolution makes: computed a second time to lose less by rounding.

`split_residuals`: the tensor behind a residual is read twice: by the next convolution and by the
addition, which adds it to a tensor of quite another range. One int8 tensor has to serve both, and
equalization has to give all three tensors the same channel scales; on Bicubic++ that doubles the
rounding noise. Where the convolution that makes the tensor is a small part of the network,
computing it twice unties them: each copy is rounded once, from exact sums, by scales that suit its
reader.

`with_low_parts`: the copy holds what the rounding of the first one lost, and both are added, see
`lowparts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.network import Residual, Step

MAX_SHARE = 0.03  # of the network's weights (1.7 % on Bicubic++ 3x)


def split_residuals(net: FloatNetwork, max_share: float = MAX_SHARE) -> FloatNetwork:
    """The same function, with a copy of each cheap convolution whose output is also a residual.

    Args:
        max_share: largest share of the network's weights that one copy may add.
    """
    read = {conv.input for conv in net.convs}
    copies = {
        conv.output: _copy(net, conv, "residual")
        for conv in _behind_residuals(net, max_share)
        if conv.output in read
    }
    return _with_copies(net, copies, lambda step, copy: (replace(step, tensor=copy),))


def with_low_parts(net: FloatNetwork, max_share: float = MAX_SHARE) -> FloatNetwork:
    """The same function, with a low part beside each residual that a cheap convolution makes.

    Args:
        max_share: largest share of the network's weights that one low part may add.
    """
    parts = {conv.output: low_part(net, conv) for conv in _behind_residuals(net, max_share)}
    return _with_copies(net, parts, lambda step, low: (step, replace(step, tensor=low)))


def low_part(net: FloatNetwork, conv: FloatConv) -> FloatConv:
    """The convolution once more, less what came of it (`lowparts`)."""
    less = Residual(conv.output, negative=True)
    return replace(_copy(net, conv, "low"), steps=(*conv.steps, less))


def _behind_residuals(net: FloatNetwork, max_share: float) -> list[FloatConv]:
    """The convolutions that make residuals and have at most this share of the weights."""
    budget = max_share * sum(conv.weight.size for conv in net.convs)
    residuals = {s.tensor for conv in net.convs for s in conv.steps if isinstance(s, Residual)}
    return [c for c in net.convs if c.output in residuals and c.weight.size <= budget]


def _copy(net: FloatNetwork, conv: FloatConv, end: str) -> FloatConv:
    name, output = (net.unused(f"{n}_{end}") for n in (conv.name, conv.output))
    return replace(conv, name=name, output=output)


def _with_copies(
    net: FloatNetwork,
    copies: Mapping[str, FloatConv],
    added: Callable[[Residual, str], tuple[Residual, ...]],
) -> FloatNetwork:
    """The network with each copy behind its original.

    Args:
        copies: by the output of the original.
        added: what a residual becomes that has a copy, given the copy's output.
    """

    def reading(conv: FloatConv) -> FloatConv:
        steps: list[Step] = []
        for step in conv.steps:
            if isinstance(step, Residual) and step.tensor in copies:
                steps += added(step, copies[step.tensor].output)
            else:
                steps.append(step)
        return replace(conv, steps=tuple(steps))

    ops: list[FloatOp] = []
    for op in net.ops:
        ops.append(reading(op) if isinstance(op, FloatConv) else op)
        if op.output in copies:
            ops.append(copies[op.output])
    channels = dict(net.channels) | {c.output: net.channels[o] for o, c in copies.items()}
    return replace(net, ops=tuple(ops), channels=channels)
