"""Fixes the shape of a network's input, and refuses one that does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx

from compiler.errors import ShapeError, line_of

_MIN_IR_VERSION = 7  # of opset 13; below 4, shape inference does not see initializers
MAX_ELEMENTS = 1 << 29  # of one tensor: 2 GiB as float32, 16 times a 1080p frame enlarged 3x
Shape = tuple[int, ...]


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
            f"the shape {dict(shape)} does not fit: {line_of(error, -1)}",
            where=str(path),
            fix="correct frontend.shape in the spec",
        ) from error
    _refuse_huge(inferred, path)
    return inferred


def has_another_size(model: onnx.ModelProto, shape: Mapping[str, Shape]) -> bool:
    """Whether the file itself fixes a height or width that is not the wanted one."""
    return any(
        own > 0 and own != wanted
        for port in _ports(model)
        for own, wanted in zip(dims(port)[2:], shape.get(port.name, ())[2:], strict=False)
    )


def dims(value: onnx.ValueInfoProto) -> Shape:
    """Dimensions, 0 where one is symbolic or unknown."""
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _ports(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of the graph that are not weights."""
    constants = {i.name for i in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in constants]


def _name_nodes(model: onnx.ModelProto) -> None:
    """Names each node after its output where it has no name, or one that another node has."""
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            node.name = node.output[0]
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)


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


def _refuse_huge(model: onnx.ModelProto, path: Path) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        if math.prod(dims(value)) > MAX_ELEMENTS or min(dims(value), default=0) < 0:
            raise ShapeError(
                f"the tensor {value.name!r} would have the shape {list(dims(value))}",
                where=str(path),
                fix="build for a smaller frontend.shape; larger images are processed in parts",
            )
