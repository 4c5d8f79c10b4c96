"""Residuals of 16 bits: a second int8 tensor holds what the rounding of the first one lost.

A tensor y = round(v) that is added to a later one brings the whole error of its rounding to the
sum; on Bicubic++ that is as much as all other roundings together. Where the convolution behind it
is cheap, it is computed once more for

    low = v - y,    |low| <= s_y / 2,    s_low = s_y / 254

and the addition takes y and low: 16 bits, of plain int8 operators. In float, low is 0: the network
stays the same function, and whatever moves y moves low the other way. `recovery.split` adds low
parts to a network; here they are found again, for their range and the one kernel that makes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.histogram import Histogram
from calib.table import CalibrationTable, from_range
from compiler.floatnet import FloatNetwork
from compiler.network import Activation, ConvChain, Network, Residual, Step

METHOD = "low part"


def low_parts(net: FloatNetwork | Network) -> dict[str, str]:
    """Every tensor that is a low part, read by additions alone, and the tensor it completes."""
    added = {name for conv in net.convs for name in conv.inputs[1:]}
    read = {conv.input for conv in net.convs}
    read.update(name for op in net.ops if not isinstance(op, ConvChain) for name in op.inputs)
    candidates = [c for c in net.convs if c.output in added - read and _takes_away(c)]
    return {low.output: c.output for low, c in product(candidates, net.convs) if _is_low(low, c)}


def _takes_away(conv: ConvChain) -> bool:
    last = conv.steps[-1] if conv.steps else None
    return isinstance(last, Residual) and last.negative


def _is_low(low: ConvChain, conv: ConvChain) -> bool:
    """Whether `low` is `conv` once more, less what came of it."""
    last = low.steps[-1]
    plain = ("input", "strides", "pads", "dilations", "groups")
    return (
        isinstance(last, Residual)
        and last.tensor == conv.output
        and all(getattr(low, name) == getattr(conv, name) for name in plain)
        and len(low.steps) == len(conv.steps) + 1
        and all(map(_same_step, low.steps, conv.steps))
        and all(
            np.array_equal(a, b) for a, b in zip(_constants(low), _constants(conv), strict=True)
        )
    )


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
    """The table, the range of every low part being one step of the tensor that it completes."""
    tensors = dict(table.tensors)
    for low, high in low_parts(net).items():
        half = tensors[high].scale / 2
        tensors[low] = from_range(histograms[low], -half, half, METHOD, symmetric)
    return CalibrationTable(tensors)
