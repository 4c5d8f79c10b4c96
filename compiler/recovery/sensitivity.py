"""How much noise in each channel of a tensor shows in the output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from calib.qparams import F32, F64
from compiler import qdq
from compiler.float_values import FloatValues
from compiler.floatnet import FloatNetwork
from compiler.lowparts import low_parts
from compiler.recovery.samples import Samples
from compiler.runner import Session

_PROBES = 4  # tiles
_SIDE = 48  # pixels of a probe
_STEP = 2.0**-8  # of a channel's peak: far above binary32 noise, small against the activations

Sensitivities = Mapping[str, F64]


def measure(net: FloatNetwork, samples: Samples, *, seed: int) -> dict[str, F64]:
    """Mean squared output error per unit variance of white noise in one channel.

    Found by adding +-epsilon to the channel, at every rounding point that an operator computes, on
    a few small probes spread over the samples. A tensor with a low part shows nearly nothing, its
    low part makes up for it; noise in the low part, which takes the tensor's epsilon, stays.

    Returns:
        rounding point to binary64 [channels].
    """
    points = [p for p in net.rounding_points if p != net.ops[0].output]
    session = Session(_with_noise_inputs(qdq.write_float(net), points, net))
    values = FloatValues(net, points)
    rng = np.random.default_rng(seed)
    sized_by = {p: p for p in points} | low_parts(net)
    total = {p: np.zeros(net.channels[p]) for p in points}
    tiles = samples.tiles[:: max(1, len(samples.tiles) // _PROBES)][:_PROBES]
    for tile in tiles:
        x = np.ascontiguousarray(tile[:, :, :_SIDE, :_SIDE])
        clean = values.of(x)
        feeds = {_noise(p): np.zeros_like(clean[p])[None] for p in points} | {net.input: x}
        expected = session.run_all(feeds)[0].astype(np.float64)
        for p in points:
            total[p] += _probe(session, feeds, p, clean[sized_by[p]], expected, rng)
    return {p: t / len(tiles) for p, t in total.items()}


def _probe(
    session: Session,
    feeds: dict[str, F32],
    point: str,
    sized: F32,
    expected: F64,
    rng: np.random.Generator,
) -> F64:
    """Sensitivity of every channel of one tensor on one tile, epsilon a part of `sized`'s peaks."""
    found = np.zeros(len(sized))
    signs = rng.choice(np.array([-1, 1], np.float32), sized.shape[1:])
    for c, channel in enumerate(sized):
        epsilon = np.float32(_STEP * np.abs(channel).max())
        if epsilon == 0:
            continue
        noise = np.zeros_like(sized)[None]
        noise[0, c] = epsilon * signs
        moved = session.run_all(feeds | {_noise(point): noise})[0].astype(np.float64) - expected
        found[c] = np.mean(moved**2) / np.float64(epsilon) ** 2
    return found


def _noise(point: str) -> str:
    return f"{point}__noise"


def _with_noise_inputs(
    model: onnx.ModelProto, points: list[str], net: FloatNetwork
) -> onnx.ModelProto:
    """`model` with point + noise in place of each point, the noise being further inputs."""
    graph, nodes = model.graph, []
    for node in graph.node:
        nodes.append(node)
        point = node.output[0]
        if point in points:
            node.output[0] = f"{point}__clean"
            nodes.append(helper.make_node("Add", [node.output[0], _noise(point)], [point]))
            shape = [1, net.channels[point], None, None]
            graph.input.append(
                helper.make_tensor_value_info(_noise(point), TensorProto.FLOAT, shape)
            )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
