"""Loads an ONNX network: reads, checks and upgrades it, and fixes the shape of its input."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import version_converter

from compiler.canonical import canonical
from compiler.errors import ModelError, UnsupportedOperatorError, line_of
from compiler.shapes import Shape, has_another_size, with_shape

MIN_OPSET = 13  # the first with per-channel QuantizeLinear
MAX_MODEL_BYTES = 1 << 30


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
            f"not a valid ONNX network: {line_of(error)}",
            where=str(path),
            fix="export it again; `python -m onnx.checker` tells more",
        ) from error
    model = _upgrade(model, path)
    if has_another_size(model, shape):
        # exporters write the size into a PixelShuffle's Reshape; as DepthToSpace it fits any
        model = canonical(onnx.shape_inference.infer_shapes(model))
    return LoadedModel(with_shape(model, shape, path), hashlib.sha256(data).hexdigest(), path)


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
            f"opset {opset} cannot be converted to {MIN_OPSET}: {line_of(error)}",
            where=str(path),
            fix=f"export the network with opset {MIN_OPSET} or later",
        ) from error


def operators(model: onnx.ModelProto) -> tuple[tuple[str, str], ...]:
    """(operator, node name) of every node, in graph order."""
    return tuple((n.op_type, n.name or n.output[0]) for n in model.graph.node)
