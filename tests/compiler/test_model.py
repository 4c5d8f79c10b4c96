"""compiler.model: what is loaded, what is refused, and what counts as a PixelShuffle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from compiler.errors import ModelError, ShapeError, UnsupportedOperatorError
from compiler.model import MIN_OPSET, LoadedModel, canonical, load, operators, with_shape
from compiler.runner import Session
from tests.graphs import GRAPHS, Graph, bicubic_plusplus
from tests.quantized import noise

SHAPE = {"input": (1, 3, 8, 12)}


def save(model: onnx.ModelProto | bytes, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def loaded(model: onnx.ModelProto, folder: Path, shape: dict = SHAPE) -> LoadedModel:
    return load(save(model, folder), shape)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def small(size: tuple = ("height", "width"), batch: int | str = 1) -> Graph:
    g = Graph(3, size, batch=batch)
    g.conv(3, bias=True)
    return g


# --- what is loaded


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


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_old_opsets_are_upgraded_and_mean_the_same(opset: int, tmp_path: Path) -> None:
    g = small()
    g.leaky()
    g.max_pool((2, 2), (1, 1))
    g.conv(12)
    if opset > 10:
        g.depth_to_space(2)
        g.resize_nearest(roi=g.constant(np.empty(0, np.float32)))
    original = g.model(opset=opset, ir_version=4)
    result = loaded(original, tmp_path)
    assert [o.version for o in result.proto.opset_import] == [MIN_OPSET]
    x = noise(3, 8, 12)
    (expected,) = ReferenceEvaluator(original).run(None, {"input": x})
    np.testing.assert_allclose(Session(result.proto).run(x), expected, atol=1e-5)


def test_later_opsets_are_left_alone(tmp_path: Path) -> None:
    result = loaded(small().model(opset=18), tmp_path)
    assert [o.version for o in result.proto.opset_import] == [18]


def test_weights_may_be_listed_as_inputs_as_before_ir_version_4(tmp_path: Path) -> None:
    model = bicubic_plusplus().model(opset=11, ir_version=3)
    for weight in model.graph.initializer:
        port = helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
        model.graph.input.append(port)
    result = loaded(model, tmp_path)
    assert [i.name for i in result.proto.graph.input] == ["input"]
    assert dims(result.proto.graph.output[0]) == [1, 3, 16, 24]
    Session(result.proto)


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


def test_operators_are_listed_in_order() -> None:
    g = small()
    g.relu()
    g.nodes[-1].name = ""
    assert operators(g.model()) == (("Conv", "conv0"), ("Relu", "t1"))


# --- files that are no network


def truncated() -> bytes:
    data = bicubic_plusplus().model().SerializeToString()
    return data[: len(data) // 2]


def damaged_weights() -> onnx.ModelProto:
    model = small().model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return model


def unknown_operator() -> onnx.ModelProto:
    g = small()
    g.node("Unheard")
    return g.model()


def cyclic() -> onnx.ModelProto:
    g = small()
    g.relu()
    g.nodes[0].input[0] = g.last
    return g.model()


def wrong_rank_inside() -> onnx.ModelProto:
    g = small()
    g.conv(3, weight=np.ones((3, 3, 3, 3, 3)))
    return g.model()


def name_of_bytes() -> bytes:
    """protobuf hands such a name out as bytes, or fails when it is copied."""
    return small().model().SerializeToString().replace(b"\n\x05input", b"\n\x05inp\xfet")


BAD_FILES: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "empty": (lambda: b"", "not a network file"),
    "text": (lambda: b"spec: not a network\n" * 40, "not ONNX, or is damaged"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not ONNX, or is damaged"),
    "truncated": (truncated, "not ONNX, or is damaged|not a valid ONNX network"),
    "zeros": (lambda: bytes(100), "not ONNX, or is damaged"),
    "a name of bytes": (name_of_bytes, "a name in the network is not UTF-8 text"),
    "no nodes": (lambda: Graph(3).model("input"), "no nodes"),
    "short weights": (damaged_weights, "not a valid ONNX network"),
    "unknown operator": (unknown_operator, "not a valid ONNX network.*Unheard"),
    "cyclic": (cyclic, "not a valid ONNX network"),
    "rank inside": (wrong_rank_inside, "not a valid ONNX network"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(case: str, tmp_path: Path) -> None:
    make, message = BAD_FILES[case]
    path = save(make(), tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load(path, SHAPE)
    assert caught.value.where == str(path)
    assert caught.value.fix
    assert "\n" not in caught.value.what


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file") as caught:
        load(tmp_path / "absent.onnx", SHAPE)
    assert caught.value.where == str(tmp_path / "absent.onnx")
    assert "make models" in caught.value.fix


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a network file"):
        load(tmp_path, SHAPE)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="not a network file"):
        load(path, SHAPE)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(
        small().model(),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    with pytest.raises(ModelError, match="'c0' lie in another file") as caught:
        load(path, SHAPE)
    assert "one file" in caught.value.fix


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "net.onnx"])
@pytest.mark.parametrize("place", ["initializer", "constant", "sparse", "unmarked"])
def test_nothing_follows_a_path_out_of_the_file(location: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to("../secret.bin")
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "outside")
    tensor.ClearField("raw_data")
    if place != "unmarked":
        tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model = small().model()
    if place == "constant":
        node = helper.make_node("Constant", [], ["outside"])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
        model.graph.node.insert(0, node)
    elif place == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    else:
        model.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match="'outside' lie in another file"):
        loaded(model, tmp_path)


def test_control_flow_is_refused_by_node(tmp_path: Path) -> None:
    g = small()
    body = helper.make_graph([], "body", [], [])
    g.node("Loop", g.constant(np.int64(1 << 62)), "", g.last, body=body, name="forever")
    with pytest.raises(UnsupportedOperatorError, match="Loop runs a graph") as caught:
        loaded(g.model(), tmp_path)
    assert caught.value.where == "node forever (Loop)"


def test_functions_of_the_file_are_refused(tmp_path: Path) -> None:
    """One could be called Conv, and mean something else."""
    model = small().model()
    model.functions.add(name="Conv", domain="mine")
    with pytest.raises(ModelError, match="functions of its own"):
        loaded(model, tmp_path)


def test_a_tensor_beyond_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"the shape \[1, 3, 65536, 65536\]"):
        loaded(small().model(), tmp_path, {"input": (1, 3, 1 << 16, 1 << 16)})


def test_an_opset_that_does_not_exist_yet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="opset 9999 is newer than"):
        loaded(small().model(opset=9999), tmp_path)


def test_an_opset_that_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no adapter for\nthis operator")

    monkeypatch.setattr(version_converter, "convert_version", fail)
    with pytest.raises(ModelError, match="opset 11 cannot be converted to 13") as caught:
        loaded(small().model(opset=11), tmp_path)
    assert "opset 13" in caught.value.fix
    assert "\n" not in caught.value.what


# --- shapes that do not fit


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


# --- PixelShuffle


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


def test_several_inputs_are_named_in_the_error(tmp_path: Path) -> None:
    g = small()
    model = g.model()
    port = helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 3, None, None])
    model.graph.input.append(port)
    with pytest.raises(ShapeError, match=r"inputs are \['input', 'second'\]") as caught:
        loaded(model, tmp_path)
    assert "second: [1, C, H, W]" in caught.value.fix
