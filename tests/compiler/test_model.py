"""compiler.model: what is loaded, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from compiler.errors import ModelError, UnsupportedOperatorError
from compiler.model import MIN_OPSET, LoadedModel, load, operators
from compiler.runner import Session
from tests.graphs import Graph, bicubic_plusplus
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
