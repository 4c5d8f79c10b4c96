"""Reads an ONNX graph as fused chains; what the integer semantics do not define is refused here."""

from __future__ import annotations

from collections import Counter

import onnx

from compiler.chains import Chains, unsupported
from compiler.errors import UnsupportedOperatorError
from compiler.floatnet import FloatNetwork
from compiler.operators import READERS


def fuse(model: onnx.ModelProto) -> FloatNetwork:
    """Reads a simplified ONNX graph as fused chains.

    Args:
        model: checked, with one input [1, C, H, W] and one output, opset 13 or later.
    Raises:
        UnsupportedOperatorError: names the node, and what about it the semantics do not define.
        ModelError: more than one input or output.
    """
    undefined = [node for node in model.graph.node if not _is_known(node)]
    if undefined:
        raise _undefined(undefined)
    chains = Chains(model.graph)
    for node in model.graph.node:
        READERS[node.op_type](chains, node)
    return chains.network()


def _is_known(node: onnx.NodeProto) -> bool:
    return node.op_type in READERS and node.domain in ("", "ai.onnx")


def _undefined(nodes: list[onnx.NodeProto]) -> UnsupportedOperatorError:
    """The refusal of a graph by its first such node; the other operators are named with it."""
    first = nodes[0]
    counts = Counter(node.op_type for node in nodes[1:])
    refusal = unsupported(first, "the integer semantics do not define this operator")
    refusal.fix = f"supported are {', '.join(sorted(READERS))}; replace the node, or cut the graph"
    if counts:
        others = ", ".join(f"{op} ({n})" if n > 1 else op for op, n in sorted(counts.items()))
        refusal.what += f"; the same is true of {len(nodes) - 1} more nodes: {others}"
    return refusal
