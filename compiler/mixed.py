"""A network that is quantized in part and float for the rest: what does the part cost?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from calib import qparams
from compiler import qdq
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import Conv, Network
from compiler.runner import Session


def with_weights(net: FloatNetwork, integer: Network, layers: Collection[str]) -> FloatNetwork:
    """The float network, the named convolutions with the real values of their integers.

    Args:
        net: what `integer` was quantized from, equalized like it.
    """
    rounded = {c.name: c for c in integer.convs}

    def real(op: FloatConv) -> FloatConv:
        conv: Conv = rounded[op.name]
        step = qparams.requantize_multiplier(integer.tensors[conv.input].q.scale, conv.weight_scale)
        weight = conv.weight * conv.weight_scale[:, None, None, None]
        return replace(op, weight=weight, bias=conv.bias.astype(np.float32) * step)

    ops = tuple(real(o) if isinstance(o, FloatConv) and o.name in layers else o for o in net.ops)
    return replace(net, ops=ops)


def session(
    net: FloatNetwork,
    integer: Network,
    activations: Collection[str],
    layers: Collection[str],
    threads: int = 1,
) -> Session:
    """Runs the network with the named rounding points rounded, and the named layers' weights."""
    points = {p: integer.tensors[p].q for p in net.rounding_points if p in activations}
    model = qdq.write_mixed(with_weights(net, integer, layers), points)
    return Session(model, optimize=False, threads=threads)
