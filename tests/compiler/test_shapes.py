"""compiler.shapes: the size of the spec, and what does not fit it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from compiler.canonical import canonical
from compiler.errors import ShapeError
from compiler.model import load
from compiler.runner import Session
from compiler.shapes import with_shape
from tests.compiler.test_model import SHAPE, dims, loaded, save, small
from tests.graphs import Graph, bicubic_plusplus
from tests.quantized import noise


def test_the_shape_is_fixed_and_inferred_throughout(tmp_path: Path) -> None:
    path = save(bicubic_plusplus().model(), tmp_path)
    result = load(path, SHAPE)
    assert result.path == path
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    graph = result.proto.graph
    assert dims(graph.input[0]) == [1, 3, 8, 12]
    assert dims(graph.output[0]) == [1, 3, 16, 24]
    assert {v.name: dims(v) for v in graph.value_info}["t1"] == [1, 4, 4, 6]


@pytest.mark.parametrize("size", [("h", "w"), (8, 12), (16, 16)])
@pytest.mark.parametrize("batch", [1, "n", 4])
def test_the_spec_decides_the_size(size: tuple, batch: int | str, tmp_path: Path) -> None:
    result = loaded(small(size, batch).model(), tmp_path)
    assert dims(result.proto.graph.input[0]) == [1, 3, 8, 12]
    assert Session(result.proto).run(noise(3, 8, 12)).shape == (1, 3, 8, 12)


def test_the_model_given_is_not_modified() -> None:
    model = bicubic_plusplus().model()
    before = model.SerializeToString()
    fixed = with_shape(model, SHAPE, Path("x"))
    inferred = fixed.SerializeToString()
    canonical(fixed)
    assert model.SerializeToString() == before
    assert fixed.SerializeToString() == inferred


def test_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    """ONNX Runtime refuses two nodes of one name, the checker does not."""
    g = small()
    g.conv(3)
    g.conv(3)
    g.conv(3)
    for node, name in zip(g.nodes, ["same", "same", "", "t1"], strict=True):
        node.name = name
    result = loaded(g.model(), tmp_path)
    assert [n.name for n in result.proto.graph.node] == ["same", "t1", "t2", "t3"]
    Session(result.proto)


def test_a_tensor_beyond_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"the shape \[1, 3, 65536, 65536\]"):
        loaded(small().model(), tmp_path, {"input": (1, 3, 1 << 16, 1 << 16)})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"image": (1, 3, 8, 12)}, r"names \['image'\], the network's inputs are \['input'\]"),
        ({}, r"names \[\]"),
        ({"input": (1, 3, 8, 12), "more": (1,)}, r"\['input', 'more'\]"),
        ({"input": (3, 8, 12)}, "has 4 dimensions, frontend.shape gives 3"),
        ({"input": (1, 3, 8, 12, 1)}, "has 4 dimensions, frontend.shape gives 5"),
        ({"input": (1, 1, 8, 12)}, "has 3 channels, frontend.shape gives 1"),
        ({"input": (1, 12, 8, 3)}, "has 3 channels, frontend.shape gives 12"),
    ],
)
def test_shapes_that_do_not_fit(shape: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        loaded(small().model(), tmp_path, shape)
    assert caught.value.where == str(tmp_path / "net.onnx")
    assert caught.value.fix


def test_a_graph_that_does_not_fit_the_size(tmp_path: Path) -> None:
    """Added at 8x12 only: half of an odd side is rounded, and twice that is another size."""
    g = Graph(3)
    g.conv(4, strides=(2, 2))
    up = g.resize_nearest()
    g.conv(4, source="input")
    g.add(up)
    loaded(g.model(), tmp_path)
    with pytest.raises(ShapeError, match="does not fit"):
        loaded(g.model(), tmp_path, {"input": (1, 3, 7, 12)})


def test_several_inputs_are_named_in_the_error(tmp_path: Path) -> None:
    g = small()
    model = g.model()
    port = helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 3, None, None])
    model.graph.input.append(port)
    with pytest.raises(ShapeError, match=r"inputs are \['input', 'second'\]") as caught:
        loaded(model, tmp_path)
    assert "second: [1, C, H, W]" in caught.value.fix
