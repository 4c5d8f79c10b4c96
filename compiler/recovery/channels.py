"""Which channels of which tensors must be scaled together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import Concat, DepthToSpace

Classes = Mapping[str, NDArray[np.int64]]

FIXED = 0  # the class of the channels whose scale is 1


def channel_classes(net: FloatNetwork) -> dict[str, NDArray[np.int64]]:
    """Class of every channel of every tensor; channels of a class share their scale.

    The class `FIXED` has scale 1: the graph's input and output, and whatever shares with them.
    """
    starts = np.cumsum([1, *net.channels.values()])
    index = {
        n: np.arange(a, a + c) for (n, c), a in zip(net.channels.items(), starts, strict=False)
    }
    parent = np.arange(starts[-1])

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = int(parent[parent[i]])
        return i

    def join(a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        for i, j in zip(a, b, strict=True):
            low, high = sorted((root(int(i)), root(int(j))))
            parent[high] = low

    for name in (net.input, net.ops[0].output, net.output):
        join(index[name], np.full(len(index[name]), FIXED))
    for op in net.ops:
        match op:
            case FloatConv():
                for name in op.inputs[1:]:
                    join(index[op.output], index[name])
            case DepthToSpace():
                out, block = index[op.output], op.block**2
                join(
                    index[op.input], out.repeat(block) if op.mode == "CRD" else np.tile(out, block)
                )
            case Concat():
                join(index[op.output], np.concatenate([index[name] for name in op.inputs]))
            case _:
                join(index[op.output], index[op.inputs[0]])
    return {n: np.array([root(int(i)) for i in index[n]]) for n in net.channels}


def groups(points: list[str], classes: Classes) -> list[list[str]]:
    """Points that share a class, directly or through others."""
    found: list[tuple[set[int], list[str]]] = []
    for p in points:
        own = set(classes[p].tolist()) - {FIXED}
        joined = [g for g in found if g[0] & own]
        found = [g for g in found if not g[0] & own]
        members = sorted((q for g in joined for q in g[1]), key=points.index)
        found.append((own.union(*(g[0] for g in joined)), [*members, p]))
    return [members for _, members in found]
