"""Loads and checks an ONNX network, fixes its input shape, and makes it canonical."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from compiler.errors import ModelError, ShapeError

MIN_OPSET = 13  # the first with per-channel QuantizeLinear
_MAX_MODEL_BYTES = 1 << 30
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
    _refuse_external_data(model, path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # checker and shape inference raise several unrelated classes
        raise ModelError(
            f"not a valid ONNX network: {str(error).strip().splitlines()[0]}",
            where=str(path),
            fix="export it again; `python -m onnx.checker` tells more",
        ) from error
    model = _upgrade(model, path)
    return LoadedModel(with_shape(model, shape, path), hashlib.sha256(data).hexdigest(), path)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file() or not 0 < size <= _MAX_MODEL_BYTES:
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
    if not model.graph.node:
        raise ModelError(
            "the network has no nodes", where=str(path), fix="export or fetch it again"
        )
    return model


def _refuse_external_data(model: onnx.ModelProto, path: Path) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"the weights {tensor.name!r} lie in another file",
                where=str(path),
                fix="save the network as one file (onnx.save without external data)",
            )


def _upgrade(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset >= MIN_OPSET:
        return model
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:
        raise ModelError(
            f"opset {opset} cannot be converted to {MIN_OPSET}: {error}",
            where=str(path),
            fix=f"export the network with opset {MIN_OPSET} or later",
        ) from error


def with_shape(model: onnx.ModelProto, shape: Mapping[str, Shape], path: Path) -> onnx.ModelProto:
    """A copy of `model` whose inputs have exactly `shape`, checked by shape inference.

    Raises:
        ShapeError: unknown input, wrong rank, a fixed dimension that differs, or a graph that
            does not fit the shape.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    constants = {i.name for i in fixed.graph.initializer}
    ports = [i for i in fixed.graph.input if i.name not in constants]
    del fixed.graph.input[:]
    fixed.graph.input.extend(ports)
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
        return onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True)
    except Exception as error:
        raise ShapeError(
            f"the shape {dict(shape)} does not fit: {str(error).strip().splitlines()[-1]}",
            where=str(path),
            fix="correct frontend.shape in the spec",
        ) from error


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

    The input must carry inferred shapes. The result has symbolic height and width, so that it can
    be built for any image size.
    """
    graph = model.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    infos = [*graph.value_info, *graph.input, *graph.output]
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos}
    makers = {node.output[0]: node for node in graph.node}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    replaced: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for last in graph.node:
        middle = makers.get(last.input[0]) if last.op_type == "Reshape" else None
        first = makers.get(middle.input[0]) if middle and middle.op_type == "Transpose" else None
        if first is None or middle is None or first.op_type != "Reshape":
            continue
        block = _pixel_shuffle_block(first, middle, last, shapes, constants)
        if block and uses[first.output[0]] == uses[middle.output[0]] == 1:
            replaced[last.output[0]] = onnx.helper.make_node(
                "DepthToSpace",
                [first.input[0]],
                [last.output[0]],
                name=last.name or last.output[0],
                blocksize=block,
                mode="CRD",
            )
            dropped |= {first.output[0], middle.output[0]}
    nodes = [replaced.get(n.output[0], n) for n in graph.node if n.output[0] not in dropped]
    return _symbolic(model, nodes)


def _pixel_shuffle_block(
    first: onnx.NodeProto,
    middle: onnx.NodeProto,
    last: onnx.NodeProto,
    shapes: Mapping[str, Shape],
    constants: Mapping[str, np.ndarray],
) -> int:
    """r where the three nodes are [C r r, H, W] -> [C, r, r, H, W] -> [C, H r, W r], else 0."""
    source, split = shapes.get(first.input[0], ()), shapes.get(first.output[0], ())
    merged = shapes.get(last.output[0], ())
    perm = next((list(a.ints) for a in middle.attribute if a.name == "perm"), [])
    if len(source) != 4 or len(split) != 6 or perm != [0, 1, 4, 2, 5, 3]:
        return 0
    batch, depth, r = split[:3]
    height, width = source[2:]
    fits = split == (batch, depth, r, r, height, width) and source[1] == depth * r * r
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
