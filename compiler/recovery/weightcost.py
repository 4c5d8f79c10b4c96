"""What rounding the weights will cost, before they are rounded, by the channel scales of the input.

Rounded to its nearest step, every weight of row o of a convolution is off by an error of its own,
uniform over the row's step, which the largest weight of the row sets. With t_c the scale of input
channel c and P_c its mean square, S_o the output error per unit variance in channel o:

    step_o = max over c, taps of |w_oc| / t_c / 127
    error  = sum over o of S_o step_o^2 / 12  x  taps  x  sum over c of P_c t_c^2

One input channel whose weights are far above those of the others costs all of them their bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.qparams import F64, WEIGHT_MAX
from compiler.floatnet import FloatNetwork
from compiler.recovery.sensitivity import Sensitivities


@dataclass(frozen=True, eq=False)
class WeightCost:
    """Rounding the weights of one group of one convolution.

    Attributes:
        tensor: what the convolution reads.
        read: the channels of it that the group reads.
        steps: of a row, if one input channel alone had to be held: binary64 [rows, inputs].
        shown: output error per squared step of a row: binary64 [rows].
        power: mean squares of the input channels: binary64 [inputs].
    """

    tensor: str
    read: slice
    steps: F64
    shown: F64
    power: F64

    def error(self, log_t: F64) -> float:
        """Output error by log2 t of the tensor's channels."""
        nothing = np.zeros(len(log_t), np.bool_)
        return float(self.errors(log_t, nothing, np.zeros(1))[0])

    def errors(self, log_t: F64, moved: NDArray[np.bool_], to: F64) -> F64:
        """Output error with the channels `moved` at each of some log2 t, the others held.

        Args:
            log_t: of every channel of the tensor, binary64 [channels].
            to: binary64 [candidates].
        Returns:
            binary64 [candidates].
        """
        own = moved[self.read]
        t, candidates = np.exp2(log_t[self.read][~own]), np.exp2(to)
        held = (self.steps[:, ~own] / t).max(axis=1, initial=0)
        largest = self.steps[:, own].max(axis=1, initial=0)
        step = np.maximum(held[:, None], largest[:, None] / candidates)
        power = self.power[~own] @ t**2 + self.power[own].sum() * candidates**2
        error: F64 = (self.shown @ step**2) * power
        return error


def weight_costs(
    net: FloatNetwork, power: Mapping[str, F64], sensitivities: Sensitivities, share: float
) -> list[WeightCost]:
    """The cost of every convolution that reads one of some tensors.

    Args:
        power: mean squares of the channels of the tensors, binary64 [channels] each.
        share: of the error of rounding to nearest, what the rounding to come leaves.
    """
    costs = []
    for conv in (c for c in net.convs if c.input in power):
        peaks = np.abs(conv.weight).max(axis=(2, 3)).astype(np.float64)
        even = np.full(len(peaks), 1 / len(peaks))
        shown = sensitivities.get(conv.output, even) * (share / 12 * np.prod(conv.kernel))
        rows, inputs = len(peaks) // conv.groups, peaks.shape[1]
        for g in range(conv.groups):
            out, read = slice(g * rows, (g + 1) * rows), slice(g * inputs, (g + 1) * inputs)
            steps = peaks[out] / WEIGHT_MAX
            costs.append(WeightCost(conv.input, read, steps, shown[out], power[conv.input][read]))
    return costs
