"""Hostile networks: real ones with nodes, attributes, shapes, tensors and bytes changed."""

from __future__ import annotations

import copy
import functools
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from compiler import fusion, model, stages, target
from tests import graphs
from tests.fuzz.mutate import bytes_level, misspell

NAME = "model"
SUFFIX = ".onnx"
MEMORY_BYTES = 2 << 30
SECONDS = 20.0
_ROOT = Path(__file__).parents[2]
_HUGE = (-1, 0, 1, 2, 3, 7, 255, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 40, 1 << 62, -(1 << 63))
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan"))
_NAMES = ("", "input", "t0", "c0", "é", "a" * 5000, "a\0b", "\n", "../x", "\u202e", "0")
_LOCATIONS = (
    "../secret.bin", "link.bin", "/etc/passwd", "/dev/zero", "case.onnx", "", ".", "a" * 5000,
    "../" * 40 + "etc/passwd",
)  # fmt: skip
_OPERATORS = """
    Abs And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape
    Conv ConvTranspose CumSum DepthToSpace Div Dropout Einsum Elu Equal Exp Expand Flatten
    Gather GatherND Gemm GlobalAveragePool GRU HardSigmoid Identity If InstanceNormalization
    LSTM LeakyRelu Loop LRN MatMul Max MaxPool MaxUnpool Mean Mod Mul Multinomial
    NonMaxSuppression NonZero OneHot PRelu Pad Pow QLinearConv QuantizeLinear DequantizeLinear
    RandomNormal Range Reciprocal ReduceSum Relu Reshape Resize RoiAlign Scan ScatterND
    SequenceAt Shape Sigmoid Size Slice Softmax SpaceToDepth Split SplitToSequence Squeeze
    StringNormalizer Sub Sum Tile TopK Transpose Unsqueeze Upsample Where Xor Nothing
"""


@functools.cache
def _seeds() -> tuple[tuple[onnx.ModelProto, ...], tuple[onnx.ModelProto, ...]]:
    """Small networks made here, and real ones."""
    small = [make().model() for make in graphs.GRAPHS.values()]
    small += [make().model(opset=11, ir_version=4) for make in graphs.GRAPHS.values()]
    small += [graphs.random_graph(seed).model() for seed in range(12)]
    small += [_shuffled(), _folded()]
    real = sorted((_ROOT / "models").glob("*.onnx"))
    real += sorted((_ROOT.parent / "shared" / "models").glob("*.onnx"))
    return tuple(small), tuple(onnx.load(path) for path in real)


def _shuffled() -> onnx.ModelProto:
    g = graphs.Graph(3, (8, 12))
    g.conv(12)
    g.reshape_shuffle(2, (8, 12), nodes=True)
    return g.model()


def _folded() -> onnx.ModelProto:
    """What only a simplifier brings to the operators that are built."""
    g = graphs.Graph(3)
    g.conv(4)
    g.node("BatchNormalization", g.last, *[g.constant(np.ones(4, np.float32)) for _ in range(4)])
    g.node("Identity")
    g.relu()
    g.node("Shape", "input", output="shape")
    g.conv(3, source=g.nodes[-2].output[0])
    g.node("Softmax", axis=1)
    return g.model()


def make(rng: random.Random) -> bytes:
    """One case: a real network with a few changes, some of its bytes among them."""
    small, real = _seeds()
    proto = copy.deepcopy(rng.choice(real if rng.random() < 0.03 else small))
    if rng.random() < 0.8:
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
            rng.choice(_CHANGES)(rng, proto)
    try:
        data = proto.SerializeToString()
    except ValueError:  # a text that no file can hold
        return make(rng)
    return bytes_level(rng, data) if rng.random() < 0.3 else data


def _node(rng: random.Random, proto: onnx.ModelProto) -> onnx.NodeProto:
    if not proto.graph.node:
        proto.graph.node.add(op_type="Relu", input=["input"], output=["t0"])
    return rng.choice(proto.graph.node)


def _tensor_names(proto: onnx.ModelProto) -> list[str]:
    names = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    return [*names, *(i.name for i in proto.graph.initializer), *_NAMES]


def _rewire(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Another input or output: missing, doubled, from later on (a cycle), or of itself."""
    node = _node(rng, proto)
    ends = node.output if node.output and rng.random() < 0.3 else node.input
    name = rng.choice(_tensor_names(proto))
    match rng.randrange(4):
        case 0:
            ends.append(name)
        case 1 if ends:
            del ends[rng.randrange(len(ends))]
        case _ if ends:
            ends[rng.randrange(len(ends))] = name


def _other_operator(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    if rng.random() < 0.15:
        node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "ai.onnx", "x", "a" * 3000))
    else:
        node.op_type = rng.choice((*_OPERATORS.split(), misspell(rng, node.op_type)))


def _order(rng: random.Random, proto: onnx.ModelProto) -> None:
    nodes = [copy.deepcopy(node) for node in proto.graph.node]
    match rng.randrange(4):
        case 0:
            rng.shuffle(nodes)
        case 1:
            nodes.append(copy.deepcopy(rng.choice(nodes)) if nodes else onnx.NodeProto())
        case 2 if nodes:
            del nodes[rng.randrange(len(nodes))]
        case _:
            nodes.reverse()
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _attribute(rng: random.Random, proto: onnx.ModelProto) -> None:
    nodes = [node for node in proto.graph.node if node.attribute]
    if not nodes:
        return
    node = rng.choice(nodes)
    at = rng.randrange(len(node.attribute))
    attribute = node.attribute[at]
    match rng.randrange(9):
        case 0:
            del node.attribute[at]
        case 1:
            attribute.name = rng.choice(("auto_pad", "mode", "axis", "value", *_NAMES))
        case 2:
            attribute.type = rng.choice(AttributeProto.AttributeType.values())
        case 3:
            attribute.ref_attr_name = "alpha"
        case 4:
            attribute.f, attribute.type = rng.choice(_FLOATS), AttributeProto.FLOAT
        case 5:
            words = (b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"CRD", b"DCR", b"\xff\xfe", b"linear")
            attribute.s, attribute.type = rng.choice(words), AttributeProto.STRING
        case 6 if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_HUGE)
        case 7:
            attribute.ints.extend([rng.choice(_HUGE)] * rng.choice((1, 1, 9)))
        case _ if attribute.ints and rng.random() < 0.5:
            del attribute.ints[rng.randrange(len(attribute.ints)) :]
        case _:
            attribute.i = rng.choice(_HUGE)


def _any_tensor(rng: random.Random, proto: onnx.ModelProto) -> TensorProto:
    found = list(proto.graph.initializer)
    found += [a.t for node in proto.graph.node for a in node.attribute if a.HasField("t")]
    return rng.choice(found) if found else proto.graph.initializer.add()


def _tensor(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = _any_tensor(rng, proto)
    match rng.randrange(9):
        case 0:
            tensor.dims.append(rng.choice(_HUGE))
        case 1 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_HUGE)
        case 2 if tensor.dims:
            del tensor.dims[rng.randrange(len(tensor.dims))]
        case 3:
            tensor.data_type = rng.choice((*TensorProto.DataType.values(), 99, -1))
        case 4:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 5:
            values = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 4 * 4], np.float32)
            changed = values.copy()
            if len(changed):
                changed[rng.randrange(len(changed))] = rng.choice(_FLOATS)
            tensor.raw_data = changed.tobytes()
        case 6:
            tensor.float_data.extend([1.0] * rng.choice((1, 100)))
        case 7:
            tensor.name = rng.choice(_tensor_names(proto))
        case _:
            tensor.string_data.append(b"\xff")


def _external(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Weights in another file: outside, absolute, behind a link, a device."""
    tensor = _any_tensor(rng, proto)
    if rng.random() < 0.3:
        name = rng.choice(_tensor_names(proto))
        node = proto.graph.node.add(op_type="Constant", output=[name])
        node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
        tensor = node.attribute[0].t
    if rng.random() < 0.8:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=rng.choice(_LOCATIONS))
    if rng.random() < 0.4:
        tensor.external_data.add(key=rng.choice(("offset", "length")), value=str(rng.choice(_HUGE)))


def _port(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = proto.graph
    ports = rng.choice((graph.input, graph.output, graph.value_info))
    if not ports or rng.random() < 0.15:
        name = rng.choice(_tensor_names(proto))
        ports.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 12]))
        return
    port = rng.choice(ports)
    shape = port.type.tensor_type.shape
    match rng.randrange(7):
        case 0:
            port.name = rng.choice(_tensor_names(proto))
        case 1:
            port.type.tensor_type.elem_type = rng.choice((*TensorProto.DataType.values(), 77))
        case 2:
            port.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case 3:
            shape.dim.add(dim_value=rng.choice(_HUGE))
        case 4 if shape.dim:
            rng.choice(shape.dim).dim_value = rng.choice(_HUGE)
        case 5 if shape.dim:
            del shape.dim[rng.randrange(len(shape.dim)) :]
        case _:
            port.ClearField("type")


def _header(rng: random.Random, proto: onnx.ModelProto) -> None:
    match rng.randrange(6):
        case 0:
            proto.ir_version = rng.choice((0, 1, 3, 4, 9, 13, 99, 1 << 40))
        case 1 if proto.opset_import:
            proto.opset_import[0].version = rng.choice((0, 1, 6, 7, 9, 11, 12, 21, 25, 99, -1))
        case 2:
            proto.opset_import.add(domain=rng.choice(_NAMES), version=rng.choice((1, 13, 99)))
        case 3:
            del proto.opset_import[:]
        case 4:
            proto.graph.name = rng.choice(_NAMES)
        case _:
            proto.training_info.add().algorithm.CopyFrom(proto.graph)


def _bomb(rng: random.Random, proto: onnx.ModelProto) -> None:
    """A few bytes that mean gigabytes, or no end."""
    graph = proto.graph
    outputs = [name for node in graph.node for name in node.output] or ["input"]
    source = rng.choice(outputs)
    shape = numpy_helper.from_array(np.array([1, 3, 1 << 20, 1 << 20], np.int64), "bomb_shape")
    match rng.randrange(5):
        case 0:
            graph.initializer.append(shape)
            graph.node.add(op_type="ConstantOfShape", input=["bomb_shape"], output=["bomb"])
            graph.node.add(op_type="Add", input=["bomb", source], output=["boom"])
        case 1:
            graph.initializer.append(shape)
            operator = rng.choice(("Expand", "Tile", "Reshape"))
            graph.node.add(op_type=operator, input=[source, "bomb_shape"], output=["boom"])
        case 2:
            body = helper.make_graph([helper.make_node("Identity", [source], ["y"])], "b", [], [])
            attribute = helper.make_attribute("body", body)
            loop = graph.node.add(op_type=rng.choice(("Loop", "Scan", "If")), output=["boom"])
            loop.attribute.append(attribute)
        case 3:
            last = source
            for i in range(rng.choice((2, 12, 400))):
                graph.node.add(op_type="Concat", input=[last] * 9, output=[f"laugh{i}"])
                graph.node[-1].attribute.add(name="axis", type=AttributeProto.INT, i=1)
                last = f"laugh{i}"
        case _:
            sparse = graph.sparse_initializer.add()
            sparse.dims.extend([1 << 40, 1 << 20])
            sparse.values.name = "bomb"
    if graph.output and graph.node and rng.random() < 0.7:
        graph.output[0].name = next(iter(graph.node[-1].output), "boom")


def _function(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    function = proto.functions.add(name=node.op_type, domain=rng.choice(("", "mine")))
    function.input.append("x")
    function.output.append("y")
    function.node.add(op_type=node.op_type, input=["x"], output=["y"], domain=function.domain)


_CHANGES: tuple[Callable[[random.Random, Any], None], ...] = (
    _rewire, _rewire, _other_operator, _other_operator, _order, _attribute, _attribute, _attribute,
    _tensor, _tensor, _external, _port, _port, _header, _bomb, _function,
)  # fmt: skip


def shorter(data: bytes) -> Iterator[bytes]:
    """The network without one of its nodes, tensors, ports or attributes, each in turn."""
    try:
        whole = onnx.load_model_from_string(data)
    except Exception:  # a mutated file need not be one
        return
    for holder, parts in enumerate(_holders(whole)):
        for part in reversed(range(len(parts))):
            smaller = copy.deepcopy(whole)
            del _holders(smaller)[holder][part]
            yield smaller.SerializeToString()


def _holders(proto: onnx.ModelProto) -> list[Any]:
    graph, nodes = proto.graph, proto.graph.node
    kept = [graph.node, graph.initializer, graph.value_info, graph.output, graph.input]
    return [
        *kept,
        *(n.attribute for n in nodes),
        *(n.output for n in nodes),
        *(n.input for n in nodes),
    ]


def shape_of(data: bytes) -> dict[str, tuple[int, ...]]:
    """The shape that a spec would state: what the file itself says, small where it is open."""
    try:
        graph = onnx.load_model_from_string(data).graph
        constants = {i.name for i in graph.initializer}
        return {
            port.name: tuple(
                d.dim_value if 0 < d.dim_value <= 1 << 16 else default
                for d, default in zip(port.type.tensor_type.shape.dim, (1, 3, 8, 12), strict=False)
            )
            for port in graph.input
            if port.name not in constants
        }
    except Exception:
        return {"input": (1, 3, 8, 12)}


def judge(data: bytes, folder: Path) -> str:
    """Loads one network and looks whether the target can build it, as it stands."""
    shape = shape_of(data)
    if hashlib.sha256(data).digest()[0] < 8:
        shape = dict.fromkeys(shape, (1, 3, 1080, 1920))
    path = folder / f"case{SUFFIX}"
    path.write_bytes(data)
    loaded = model.load(path, shape)
    graph = model.canonical(loaded.proto)
    fusion.fuse(graph)
    stages.require_operators(graph, vacc())
    return "accepted"


@functools.cache
def vacc() -> target.Target:
    """The target that is built for."""
    data = target.yaml_source.read(target.TARGETS / "vacc.yaml").data
    return target.Target.model_validate(data)
