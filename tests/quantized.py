"""Integer networks made from ONNX graphs by the whole chain, calibrated on random input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.histogram import Histogram, Range
from calib.methods import Max, Method
from compiler import calibrate, fusion, qdq, quantize
from compiler.calibrate import Observed
from compiler.floatnet import FloatNetwork
from compiler.network import Network
from compiler.runner import Session

Array = NDArray[Any]
MAX = Max()


def noise(channels: int, height: int, width: int, seed: int = 0) -> Array:
    """Smooth noise, float32 [1, C, H, W] in [0, 1)."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((1, channels, -(-height // 4), -(-width // 4)))
    smooth = coarse.repeat(4, axis=2).repeat(4, axis=3)[..., :height, :width]
    return (0.8 * smooth + 0.2 * rng.random(smooth.shape)).astype(np.float32)


def observe(net: FloatNetwork, inputs: Sequence[Array]) -> Observed:
    """What calibration sees on the inputs, without files."""
    names = [name for name in net.rounding_points if name != net.ops[0].output]
    session = Session(qdq.write_float(net), names)
    seen = []
    for x in inputs:
        values = session.run_all({net.input: x})[-len(names) :] if names else []
        first = net.quantize_input
        image = first.normalized(x[0])[None]
        seen.append({first.output: image} | dict(zip(names, values, strict=True)))
    ranges = {n: reduce(Range.merge, (Range.of(s[n][0]) for s in seen)) for n in seen[0]}
    halves = tuple({n: Histogram.empty(r) for n, r in ranges.items()} for _ in (0, 1))
    for i, values in enumerate(seen):
        for n, value in values.items():
            halves[i % 2][n] = halves[i % 2][n].add(value)
    return Observed(ranges, halves, ())


def integer_network(
    model: onnx.ModelProto,
    *,
    symmetric: bool = True,
    method: Method = MAX,
    inputs: Sequence[Array] = (),
    per_channel: bool = True,
    power2: bool = False,
) -> tuple[FloatNetwork, Network]:
    """The float network of a graph and its quantized form."""
    net = fusion.fuse(model)
    channels = net.channels[net.input]
    inputs = inputs or [noise(channels, 24, 32, seed) for seed in (0, 1)]
    table, _ = calibrate.choose(net, observe(net, inputs), method, symmetric=symmetric)
    weights = {
        conv.name: quantize.round_to_nearest(conv, per_channel=per_channel, power2=power2)
        for conv in net.convs
    }
    return net, quantize.quantize(net, table, weights)
