"""Residuals of 16 bits: a second int8 tensor holds what the rounding of the first one lost.

A tensor y = round(v) that is added to a later one brings the whole error of its rounding to the
sum; on Bicubic++ that is as much as all other roundings together. Where the convolution behind it
is cheap, it is computed once more for

    low = v - y,    |low| <= s_y / 2,    s_low = s_y / 254

and the addition takes y and low: 16 bits, of plain int8 operators. In float, low is 0: the network
stays the same function, and whatever moves y moves low the other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.histogram import Histogram
from calib.table import CalibrationTable, from_range
from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.network import Activation, ConvChain, Residual, Step

MAX_SHARE = 0.03  # of the network's weights (1.7 % on Bicubic++ 3x)
METHOD = "low part"


def with_low_parts(net: FloatNetwork, max_share: float = MAX_SHARE) -> FloatNetwork:
    """The same function, with a low part beside each residual that a cheap convolution makes.

    Args:
        max_share: largest share of the network's weights that one low part may add.
    """
    budget = max_share * sum(conv.weight.size for conv in net.convs)
    residuals = {s.tensor for conv in net.convs for s in conv.steps if isinstance(s, Residual)}
    parts = {
        conv.output: _low_part(conv)
        for conv in net.convs
        if conv.output in residuals and conv.weight.size <= budget
    }
    ops: list[FloatOp] = []
    for op in net.ops:
        ops.append(_adding(op, parts) if isinstance(op, FloatConv) else op)
        if op.output in parts:
            ops.append(parts[op.output])
    channels = dict(net.channels) | {p.output: net.channels[o] for o, p in parts.items()}
    return replace(net, ops=tuple(ops), channels=channels)


def _low_part(conv: FloatConv) -> FloatConv:
    steps = (*conv.steps, Residual(conv.output, negative=True))
    return replace(conv, name=f"{conv.name}_low", output=f"{conv.output}_low", steps=steps)


def _adding(conv: FloatConv, parts: Mapping[str, FloatConv]) -> FloatConv:
    """The convolution, with the low part behind each residual that has one."""
    steps: list[Step] = []
    for step in conv.steps:
        steps.append(step)
        if isinstance(step, Residual) and step.tensor in parts:
            steps.append(replace(step, tensor=parts[step.tensor].output))
    return replace(conv, steps=tuple(steps))


def low_parts(convs: Iterable[ConvChain]) -> dict[str, str]:
    """Every tensor that is a low part, and the tensor that it completes."""
    ending = [c for c in convs if c.steps and _takes_away(c.steps[-1])]
    return {low.output: conv.output for low, conv in product(ending, convs) if _is_low(low, conv)}


def _takes_away(step: Step) -> bool:
    return isinstance(step, Residual) and step.negative


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
    for low, high in low_parts(net.convs).items():
        half = tensors[high].scale / 2
        tensors[low] = from_range(histograms[low], -half, half, METHOD, symmetric)
    return CalibrationTable(tensors)
