"""How much noise in each channel of a tensor shows in the output.

With J_c the Jacobian of the n output values by channel c of a tensor, white noise of unit variance
in that channel makes a mean squared output error of ||J_c||_F^2 / n. For v of random signs
E ||J_c^T v||^2 = ||J_c||_F^2 (M. F. Hutchinson, "A stochastic estimator of the trace of the
influence matrix", 1990), and one pass from the output gives J^T v for every tensor (`adjoint`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from calib.qparams import F64
from compiler.float_values import FloatValues
from compiler.floatnet import FloatNetwork
from compiler.recovery.adjoint import Adjoint
from compiler.recovery.samples import Samples

_PROBES = 4  # tiles
_SIDE = 48  # pixels of a probe
_VECTORS = 4  # a probe

Sensitivities = Mapping[str, F64]


def measure(net: FloatNetwork, samples: Samples, *, seed: int) -> dict[str, F64]:
    """Mean squared output error per unit variance of white noise in one channel.

    Of every rounding point that an operator computes, on a few small probes spread over the
    samples. A tensor whose rounding a low part makes up for shows nothing; its low part does.

    Returns:
        rounding point to binary64 [channels].
    """
    points = [p for p in net.rounding_points if p != net.ops[0].output]
    floats = FloatValues(net, [op.output for op in net.ops])
    rng = np.random.default_rng(seed)
    total = {p: np.zeros(net.channels[p]) for p in points}
    tiles = samples.tiles[:: max(1, len(samples.tiles) // _PROBES)][:_PROBES]
    with threadpool_limits(limits=1):
        for tile in tiles:
            values = floats.of(np.ascontiguousarray(tile[:, :, :_SIDE, :_SIDE]))
            adjoint = Adjoint(net, values)
            for _ in range(_VECTORS):
                v = rng.choice([-1.0, 1.0], values[net.output].shape)
                found = adjoint.of(v)
                for p in points:
                    total[p] += (found[p] ** 2).sum(axis=(1, 2)) / v.size
    return {p: t / (len(tiles) * _VECTORS) for p, t in total.items()}
