"""compiler.canonical: what counts as a PixelShuffle, and graphs of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compiler.canonical import canonical
from compiler.runner import Session
from tests.compiler.test_model import dims, loaded, small
from tests.graphs import GRAPHS, Graph
from tests.quantized import noise


def shuffled(
    block: int = 2, size: tuple[int, int] = (8, 12), nodes: bool = False, batch: int | str = 1
) -> Graph:
    g = Graph(3, size, batch=batch)
    g.conv(3 * block**2, name="conv")
    g.reshape_shuffle(block, size, nodes=nodes)
    return g


def canonical_ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in canonical(model).graph.node]


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("nodes", [False, True])
def test_reshape_transpose_reshape_is_a_pixel_shuffle(
    block: int, nodes: bool, tmp_path: Path
) -> None:
    original = shuffled(block, nodes=nodes).model()
    result = canonical(loaded(original, tmp_path).proto)
    conv, shuffle = result.graph.node
    assert (conv.op_type, shuffle.op_type) == ("Conv", "DepthToSpace")
    attributes = {a.name: helper.get_attribute_value(a) for a in shuffle.attribute}
    assert attributes == {"blocksize": block, "mode": b"CRD"}
    assert [i.name for i in result.graph.initializer] == ["c0"], "shapes are gone with their nodes"
    onnx.checker.check_model(result, full_check=True)

    x = noise(3, 8, 12)
    np.testing.assert_array_equal(Session(result).run(x), Session(original).run(x))
    assert dims(result.graph.input[0]) == [1, 3, "height", "width"]
    assert dims(result.graph.output[0]) == [1, 3, "out_h", "out_w"]
    assert Session(result).run(noise(3, 5, 7)).shape == (1, 3, 5 * block, 7 * block)


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_pixel_shuffle_of_a_fixed_size_fits_the_size_of_the_spec(
    batch: int | str, tmp_path: Path
) -> None:
    g = shuffled(2, (16, 20), batch=batch)
    if batch == "n":  # exporters write -1 for an open batch
        for constant in g.constants[1:]:
            value = numpy_helper.to_array(constant).copy()
            value[0] = -1
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    result = loaded(g.model(), tmp_path).proto
    assert dims(result.graph.output[0]) == [1, 3, 16, 24]
    y = Session(result).run(noise(3, 8, 12))
    reference = shuffled(2, (8, 12))
    np.testing.assert_array_equal(y, Session(reference.model()).run(noise(3, 8, 12)))


def test_depth_to_space_stays_as_it_is(tmp_path: Path) -> None:
    for mode in ("CRD", "DCR"):
        g = small()
        g.conv(12)
        g.depth_to_space(2, mode)
        proto = loaded(g.model(), tmp_path).proto
        assert list(canonical(proto).graph.node) == list(proto.graph.node)


def test_both_ways_give_the_same_canonical_graph(tmp_path: Path) -> None:
    g = Graph(3)
    g.conv(12, name="conv")
    g.depth_to_space(2)
    ours, theirs = (canonical(loaded(m.model(), tmp_path).proto).graph for m in (g, shuffled()))
    for a, b in zip(ours.node, theirs.node, strict=True):
        assert a.op_type == b.op_type
        assert sorted(a.attribute, key=str) == sorted(b.attribute, key=str)
    assert list(ours.initializer) == list(theirs.initializer)
    assert dims(ours.output[0]) == dims(theirs.output[0])


def other_permutation(g: Graph) -> None:
    next(a for a in g.nodes[2].attribute if a.name == "perm").ints[:] = [0, 1, 2, 4, 3, 5]


def dcr_order(g: Graph) -> None:
    """[r, r, C] instead of [C, r, r]: a DepthToSpace of mode DCR, which exporters do not write."""
    g.constants[1].CopyFrom(numpy_helper.from_array(np.array([1, 2, 2, 3, 8, 12]), "c1"))
    next(a for a in g.nodes[2].attribute if a.name == "perm").ints[:] = [0, 3, 4, 1, 5, 2]


def swapped_merge(g: Graph) -> None:
    g.constants[2].CopyFrom(numpy_helper.from_array(np.array([1, 3, 24, 16]), "c2"))


def uneven_blocks(g: Graph) -> None:
    g.constants[1].CopyFrom(numpy_helper.from_array(np.array([1, 3, 4, 1, 8, 12]), "c1"))
    g.constants[2].CopyFrom(numpy_helper.from_array(np.array([1, 3, 32, 12]), "c2"))


def split_rows(g: Graph) -> None:
    """A split that takes its factor from the height, not from the channels."""
    g.constants[1].CopyFrom(numpy_helper.from_array(np.array([1, 12, 2, 2, 4, 6]), "c1"))
    g.constants[2].CopyFrom(numpy_helper.from_array(np.array([1, 12, 8, 12]), "c2"))


@pytest.mark.parametrize(
    "change", [other_permutation, dcr_order, swapped_merge, uneven_blocks, split_rows]
)
def test_what_only_looks_like_a_pixel_shuffle_stays(
    change: Callable[[Graph], None], tmp_path: Path
) -> None:
    g = shuffled()
    change(g)
    proto = loaded(g.model(), tmp_path).proto
    assert canonical_ops(proto) == ["Conv", "Reshape", "Transpose", "Reshape"]


def test_a_pixel_shuffle_whose_inside_is_read_elsewhere_keeps_it(tmp_path: Path) -> None:
    g = shuffled()
    g.node("Abs", "t2")
    g.node("Reshape", g.last, g.nodes[3].input[1])
    g.add("t3")
    assert canonical_ops(loaded(g.model(), tmp_path).proto) == [
        "Conv", "Reshape", "Transpose", "DepthToSpace", "Abs", "Reshape", "Add",
    ]  # fmt: skip


def test_nodes_that_the_output_does_not_need_are_dropped(tmp_path: Path) -> None:
    g = small()
    keep = g.last
    g.conv(4)
    g.node("Sigmoid", keep)
    proto = loaded(g.model(keep), tmp_path).proto
    result = canonical(proto)
    assert [n.name for n in result.graph.node] == ["conv0"]
    assert [i.name for i in result.graph.initializer] == ["c0", "c1"]


def test_constant_nodes_become_initializers(tmp_path: Path) -> None:
    g = small()
    value = np.full((3, 1, 1), 0.25, np.float32)
    slope = g.node("Constant", "t0", value=numpy_helper.from_array(value))
    del g.nodes[-1].input[:]
    g.node("PRelu", "t0", slope)
    result = canonical(loaded(g.model(), tmp_path).proto)
    assert [n.op_type for n in result.graph.node] == ["Conv", "PRelu"]
    by_name = {i.name: numpy_helper.to_array(i) for i in result.graph.initializer}
    np.testing.assert_array_equal(by_name[slope], value)


@pytest.mark.parametrize("name", GRAPHS)
def test_canonical_graphs_compute_the_same_at_any_size(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]().model()
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    result = canonical(loaded(model, tmp_path, {"input": (1, channels, 8, 12)}).proto)
    for size in [(8, 12), (16, 4)]:
        x = noise(channels, *size)
        np.testing.assert_array_equal(Session(result).run(x), Session(model).run(x))
