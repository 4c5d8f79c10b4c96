"""ONNX graphs in canonical form: one way to write each layer, whoever exported it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from compiler.shapes import Shape, dims


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites every Reshape-Transpose-Reshape that is a PixelShuffle as DepthToSpace (CRD).

    The input must carry inferred shapes. The result has Constant nodes turned into initializers,
    only the nodes that its outputs need, and symbolic height and width, so that it can be built for
    any image size.
    """
    lifted = _without_constant_nodes(model)
    graph = lifted.graph
    shapes = {i.name: dims(i) for i in (*graph.value_info, *graph.input, *graph.output)}
    makers = {name: node for node in graph.node for name in node.output}
    nodes = [_pixel_shuffle(node, makers, shapes) or node for node in graph.node]
    return _symbolic(lifted, _needed(nodes, {output.name for output in graph.output}))


def _without_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the Constant nodes that hold a tensor as initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for node in model.graph.node:
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type != "Constant" or tensor is None:
            result.graph.node.append(node)
        else:
            result.graph.initializer.append(tensor)
            result.graph.initializer[-1].name = node.output[0]
    return result


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes, in order, on which the tensors `wanted` depend."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted = wanted | set(node.input)
            kept.insert(0, node)
    return kept


def _pixel_shuffle(
    last: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], shapes: Mapping[str, Shape]
) -> onnx.NodeProto | None:
    """DepthToSpace in place of `last`, where it ends a Reshape-Transpose-Reshape that is one."""
    chain = [last]
    while len(chain) < 3 and chain[0].input and chain[0].input[0] in makers:
        chain.insert(0, makers[chain[0].input[0]])
    if [node.op_type for node in chain] != ["Reshape", "Transpose", "Reshape"]:
        return None
    first, middle, _ = chain
    perm = next((list(a.ints) for a in middle.attribute if a.name == "perm"), [])
    names = (first.input[0], first.output[0], last.output[0])
    block = _block(*(shapes.get(name, ()) for name in names))
    if not block or perm != [0, 1, 4, 2, 5, 3]:
        return None
    return onnx.helper.make_node(
        "DepthToSpace",
        [first.input[0]],
        [last.output[0]],
        name=last.name or last.output[0],
        blocksize=block,
        mode="CRD",
    )


def _block(source: Shape, split: Shape, merged: Shape) -> int:
    """r where the shapes are [N, C r r, H, W], [N, C, r, r, H, W] and [N, C, H r, W r], else 0."""
    if len(source) != 4 or len(split) != 6:
        return 0
    batch, depth, r = split[:3]
    height, width = source[2:]
    fits = split == (batch, depth, r, r, height, width) and source[:2] == (batch, depth * r * r)
    return r if fits and merged == (batch, depth, height * r, width * r) else 0


def _symbolic(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """`model` with other nodes, only the initializers that they read, and symbolic sizes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    used = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    for port, axes in ((graph.input, ("height", "width")), (graph.output, ("out_h", "out_w"))):
        for value in port:
            dims = value.type.tensor_type.shape.dim
            if len(dims) == 4:
                for dim, symbol in zip(dims[2:], axes, strict=True):
                    dim.Clear()
                    dim.dim_param = symbol
    return result
