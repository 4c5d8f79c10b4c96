"""How large accumulators can become, from the weights alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.qparams import INT8_MAX, INT8_MIN, QParams
from compiler.errors import AccumulatorOverflowError
from compiler.network import Conv, Network


def accumulator_bounds(conv: Conv, x: QParams) -> NDArray[np.int64]:
    """A bound of |acc| over all int8 inputs, per output channel: int64 [O]."""
    peak = max(x.zero_point - INT8_MIN, INT8_MAX - x.zero_point)
    mass = np.abs(conv.weight.astype(np.int64)).reshape(len(conv.weight), -1).sum(axis=1)
    bounds: NDArray[np.int64] = peak * mass + np.abs(conv.bias.astype(np.int64))
    return bounds


def prove_int32(net: Network) -> None:
    """Proves from the weights that every accumulator of `net` fits int32.

    Raises:
        AccumulatorOverflowError: names the first layer and channel for which the proof fails.
    """
    for conv in net.convs:
        bounds = accumulator_bounds(conv, net.tensors[conv.input].q)
        channel = int(bounds.argmax())
        if bounds[channel] >= 2**31:
            raise AccumulatorOverflowError(
                f"the accumulator of output channel {channel} may reach {bounds[channel]}, "
                "beyond int32",
                where=f"node {conv.name}",
                fix="split the layer's input channels, or check the bias against the weight scale",
            )
