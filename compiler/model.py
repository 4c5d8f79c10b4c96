"""Loads and checks an ONNX network, fixes its input shape, and makes it canonical."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import version_converter

from compiler.errors import ModelError, ShapeError, UnsupportedOperatorError

MIN_OPSET = 13  # the first with per-channel QuantizeLinear
_MIN_IR_VERSION = 7  # of opset 13; below 4, shape inference does not see initializers
MAX_MODEL_BYTES = 1 << 30
MAX_ELEMENTS = (
    1 << 29
)  # of one tensor: 2 GiB as float32, 16 times a 1080p frame three times as high
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadedModel:
    """A checked network with the input shape of the spec.

    Attributes:
        proto: the graph; not to be modified.
        sha256: digest of the file it came from.
    """

    proto: onnx.ModelProto
    sha256: str
    path: Path


def load(path: Path, shape: Mapping[str, Shape]) -> LoadedModel:
    """Reads, checks and upgrades an ONNX file, and fixes the shape of its input.

    Args:
        shape: input name to [1, C, H, W], as the spec states it.
    Raises:
        ModelError: missing, damaged, or not valid ONNX.
        ShapeError: the network has another input, or does not accept this shape.
    """
    data = _read(path)
    model = _parse(data, path)
    _refuse_foreign(model, path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # checker and shape inference raise several unrelated classes
        raise ModelError(
            f"not a valid ONNX network: {_line(error, 0)}",
            where=str(path),
            fix="export it again; `python -m onnx.checker` tells more",
        ) from error
    model = _upgrade(model, path)
    if _has_another_size(model, shape):
        # exporters write the size into a PixelShuffle's Reshape; as DepthToSpace it fits any
        model = canonical(onnx.shape_inference.infer_shapes(model))
    return LoadedModel(with_shape(model, shape, path), hashlib.sha256(data).hexdigest(), path)


def _line(error: Exception, index: int) -> str:
    """One line of a message of onnx, which may have none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[index]


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file() or not 0 < size <= MAX_MODEL_BYTES:
            raise ModelError(
                f"is not a network file ({size} bytes)",
                where=str(path),
                fix="name an ONNX file below 1 GiB in frontend.checkpoint",
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the checkpoint cannot be read: {os.strerror(error.errno or 0)}",
            where=str(path),
            fix="correct frontend.checkpoint in the spec, or fetch it with `make models`",
        ) from error


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ModelError(
            "the file is not ONNX, or is damaged", where=str(path), fix="export or fetch it again"
        ) from error
    if not _is_text(model):
        raise ModelError(
            "a name in the network is not UTF-8 text",
            where=str(path),
            fix="export or fetch it again",
        )
    if not model.graph.node:
        raise ModelError(
            "the network has no nodes", where=str(path), fix="export or fetch it again"
        )
    return model


def _is_text(message: Message) -> bool:
    """Whether every string in a message is text; protobuf hands out any bytes."""
    for field, value in message.ListFields():
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        for item in value if several else (value,):
            if field.type == FieldDescriptor.TYPE_STRING and isinstance(item, bytes):
                return False
            if field.type == FieldDescriptor.TYPE_MESSAGE and not _is_text(item):
                return False
    return True


def _refuse_foreign(model: onnx.ModelProto, path: Path) -> None:
    """Refuses what reaches beyond one straight graph in one file, before anything follows it."""
    attributes = [a for node in model.graph.node for a in node.attribute]
    if model.functions or any(a.ref_attr_name for a in attributes):
        raise ModelError(
            "the network is made of functions of its own",
            where=str(path),
            fix="inline them (onnx.inliner.inline_local_functions) and save the network again",
        )
    for node in model.graph.node:
        if any(a.type in _GRAPHS or a.HasField("g") or a.graphs for a in node.attribute):
            raise UnsupportedOperatorError(
                f"operator {node.op_type} runs a graph inside the graph",
                where=f"node {node.name or ', '.join(node.output)} ({node.op_type})",
                fix="export the network without control flow (If, Loop, Scan)",
            )
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(
                f"the weights {tensor.name!r} lie in another file",
                where=str(path),
                fix="save the network as one file (onnx.save without external data)",
            )


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that is stored in a graph without subgraphs."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    yield from graph.initializer
    for attribute in attributes:
        yield attribute.t
        yield from attribute.tensors
    sparse = [graph.sparse_initializer]
    sparse += [[attribute.sparse_tensor] for attribute in attributes]
    sparse += [attribute.sparse_tensors for attribute in attributes]
    for tensor in itertools.chain.from_iterable(sparse):
        yield from (tensor.values, tensor.indices)


def _upgrade(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset > (known := onnx.defs.onnx_opset_version()):
        raise ModelError(
            f"its opset {opset} is newer than {known}, the last that this onnx knows",
            where=str(path),
            fix=f"export the network with opset {MIN_OPSET} to {known}",
        )
    if opset >= MIN_OPSET:
        return model
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:
        raise ModelError(
            f"opset {opset} cannot be converted to {MIN_OPSET}: {_line(error, 0)}",
            where=str(path),
            fix=f"export the network with opset {MIN_OPSET} or later",
        ) from error


def _ports(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of the graph that are not weights."""
    constants = {i.name for i in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in constants]


def _has_another_size(model: onnx.ModelProto, shape: Mapping[str, Shape]) -> bool:
    """Whether the file itself fixes a height or width that is not the wanted one."""
    return any(
        own > 0 and own != wanted
        for port in _ports(model)
        for own, wanted in zip(_dims(port)[2:], shape.get(port.name, ())[2:], strict=False)
    )


def _dims(value: onnx.ValueInfoProto) -> Shape:
    """Dimensions, 0 where one is symbolic or unknown."""
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Names each node after its output where it has no name, or one that another node has."""
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            node.name = node.output[0]
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)


def with_shape(model: onnx.ModelProto, shape: Mapping[str, Shape], path: Path) -> onnx.ModelProto:
    """A copy of `model` whose inputs have exactly `shape`, checked by shape inference.

    Raises:
        ShapeError: unknown input, wrong rank, a fixed dimension that differs, or a graph that
            does not fit the shape.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.ir_version = max(model.ir_version, _MIN_IR_VERSION)
    ports = _ports(fixed)
    del fixed.graph.input[:]
    fixed.graph.input.extend(ports)
    _name_nodes(fixed)
    names = [p.name for p in ports]
    if sorted(shape) != sorted(names):
        raise ShapeError(
            f"frontend.shape names {sorted(shape)}, the network's inputs are {sorted(names)}",
            where=str(path),
            fix=f"write shape: {{{', '.join(f'{n}: [1, C, H, W]' for n in names)}}}",
        )
    for port in fixed.graph.input:
        _fix_dims(port, shape[port.name], path)
    del fixed.graph.value_info[:]
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True)
    except Exception as error:
        raise ShapeError(
            f"the shape {dict(shape)} does not fit: {_line(error, -1)}",
            where=str(path),
            fix="correct frontend.shape in the spec",
        ) from error
    _refuse_huge(inferred, path)
    return inferred


def _refuse_huge(model: onnx.ModelProto, path: Path) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        if math.prod(_dims(value)) > MAX_ELEMENTS or min(_dims(value), default=0) < 0:
            raise ShapeError(
                f"the tensor {value.name!r} would have the shape {list(_dims(value))}",
                where=str(path),
                fix="build for a smaller frontend.shape; larger images are processed in parts",
            )


def _fix_dims(port: onnx.ValueInfoProto, wanted: Shape, path: Path) -> None:
    dims = port.type.tensor_type.shape.dim
    if len(dims) != len(wanted):
        raise ShapeError(
            f"input {port.name!r} has {len(dims)} dimensions, frontend.shape gives {len(wanted)}",
            where=str(path),
            fix="correct frontend.shape in the spec",
        )
    for axis, (dim, size) in enumerate(zip(dims, wanted, strict=True)):
        if axis == 1 and dim.dim_value not in (0, size):
            raise ShapeError(
                f"input {port.name!r} has {dim.dim_value} channels, frontend.shape gives {size}",
                where=str(path),
                fix=f"write {dim.dim_value} as the second number",
            )
        dim.Clear()
        dim.dim_value = size


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites every Reshape-Transpose-Reshape that is a PixelShuffle as DepthToSpace (CRD).

    The input must carry inferred shapes. The result has Constant nodes turned into initializers,
    only the nodes that its outputs need, and symbolic height and width, so that it can be built for
    any image size.
    """
    lifted = _without_constant_nodes(model)
    graph = lifted.graph
    shapes = {i.name: _dims(i) for i in (*graph.value_info, *graph.input, *graph.output)}
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


def operators(model: onnx.ModelProto) -> tuple[tuple[str, str], ...]:
    """(operator, node name) of every node, in graph order."""
    return tuple((n.op_type, n.name or n.output[0]) for n in model.graph.node)
