"""Tensors of 16 bits: a second int8 tensor holds what the rounding of the first one lost.

A tensor y = round(v) that is added to a later one brings the whole error of its rounding to the
sum; on Bicubic++ that is as much as all other roundings together. Where the convolution behind it
is cheap, it is computed once more for

    low = v - y,    |low| <= s_y / 2,    s_low = s_y / 254

and the addition takes y and low: 16 bits, of plain int8 operators. In float, low is 0: the network
stays the same function, and whatever moves y moves low the other way. `recovery.split` adds low
parts to a network; here they are found again, for their range and the one kernel that makes both.

A convolution takes 16 bits in two passes: its correction, the same weights over low, is a residual
of the convolution of y (`recovery.wide`).

    conv(y + low) = conv(y) + correction,    |correction[c]| <= sum |w[c]| s_y / 2
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.histogram import Histogram
from calib.table import CalibrationTable, from_range
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import (
    Activation,
    ConvChain,
    DepthToSpace,
    Network,
    Residual,
    ResizeNearest,
    Step,
)

METHOD, CORRECTION = "low part", "correction"
_Net = FloatNetwork | Network


def low_parts(net: _Net) -> dict[str, str]:
    """Every tensor that is a low part, and the tensor it completes.

    One that ends the network, or that a Concat or a MaxPool reads, is a tensor like others.
    """
    others = [op for op in net.ops if not isinstance(op, ConvChain | DepthToSpace | ResizeNearest)]
    taken = {net.output, *(name for op in others for name in op.inputs)}
    candidates = [c for c in net.convs if c.output not in taken and _takes_away(c)]
    return {low.output: c.output for low, c in product(candidates, net.convs) if _is_low(low, c)}


def corrections(net: _Net) -> dict[str, str]:
    """The output of every convolution that is a correction, and the low part it is made of."""
    lows = {low: low for low in low_parts(net)}
    for op in net.ops:
        if isinstance(op, DepthToSpace | ResizeNearest) and op.input in lows:
            lows[op.output] = lows[op.input]
    added = {name for conv in net.convs for name in conv.inputs[1:]}
    read = {op.inputs[0] for op in net.ops} | {net.output}
    plain = [c for c in net.convs if c.input in lows and not (c.steps or c.bias.any())]
    return {c.output: lows[c.input] for c in plain if c.output in added - read}


def derived(net: _Net) -> frozenset[str]:
    """The tensors whose ranges follow from those of others."""
    return frozenset([*low_parts(net), *corrections(net)])


def low_input(net: FloatNetwork, conv: FloatConv) -> str | None:
    """The tensor that a convolution of 16 bits reads besides its input, by its correction."""
    first = conv.steps[0] if conv.steps else None
    if not isinstance(first, Residual) or first.tensor not in corrections(net):
        return None
    (correction,) = (c for c in net.convs if c.output == first.tensor)
    same = _same_window(correction, conv) and np.array_equal(correction.weight, conv.weight)
    return correction.input if same else None


def _takes_away(conv: ConvChain) -> bool:
    last = conv.steps[-1] if conv.steps else None
    return isinstance(last, Residual) and last.negative


def _is_low(low: ConvChain, conv: ConvChain) -> bool:
    """Whether `low` is `conv` once more, less what came of it."""
    last = low.steps[-1]
    return (
        isinstance(last, Residual)
        and last.tensor == conv.output
        and low.input == conv.input
        and _same_window(low, conv)
        and len(low.steps) == len(conv.steps) + 1
        and all(map(_same_step, low.steps, conv.steps))
        and all(
            np.array_equal(a, b) for a, b in zip(_constants(low), _constants(conv), strict=True)
        )
    )


def _same_window(a: ConvChain, b: ConvChain) -> bool:
    names = ("strides", "pads", "dilations", "groups")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _same_step(a: Step, b: Step) -> bool:
    if isinstance(a, Activation) and isinstance(b, Activation):
        return np.array_equal(a.alpha, b.alpha)
    return a == b


def _constants(conv: ConvChain) -> list[NDArray[Any]]:
    names = ("weight", "bias", "weight_scale")
    return [getattr(conv, name) for name in names if hasattr(conv, name)]


def completed(
    net: FloatNetwork,
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    *,
    symmetric: bool,
) -> CalibrationTable:
    """The table with the ranges that follow from others.

    That of a low part is one step of the tensor that it completes, that of a correction all that
    its low part can make of it: a sum of many roundings comes nowhere near, and still has steps of
    a fraction of its deviation.
    """
    tensors = dict(table.tensors)
    for low, high in low_parts(net).items():
        half = tensors[high].scale / 2
        tensors[low] = from_range(histograms[low], -half, half, METHOD, symmetric)
    made = {conv.output: conv for conv in net.convs}
    for name, low in corrections(net).items():
        most = float(np.abs(made[name].weight).sum(axis=(1, 2, 3)).max()) * tensors[low].high
        tensors[name] = from_range(histograms[name], -most, most, CORRECTION, symmetric)
    return CalibrationTable(tensors)
