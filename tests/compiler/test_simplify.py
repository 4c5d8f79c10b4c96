"""compiler.simplify: equivalence, and children that crash, hang or lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compiler import simplify as module
from compiler.errors import ModelError, UnsupportedOperatorError
from compiler.fusion import fuse
from compiler.model import LoadedModel, load
from compiler.runner import Session
from compiler.simplify import simplify, supported
from tests.graphs import GRAPHS, Graph, bicubic_plusplus, espcn
from tests.quantized import noise

SHAPE = {"input": (1, 3, 8, 12)}
COPY = "import shutil, sys; shutil.copy({!r}, sys.argv[2])"


def loaded(g: Graph | onnx.ModelProto, folder: Path, shape: dict = SHAPE) -> LoadedModel:
    path = folder / "net.onnx"
    path.write_bytes((g.model() if isinstance(g, Graph) else g).SerializeToString())
    return load(path, shape)


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(module, "_CHILD", code)


def child_gives(monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto | bytes, to: Path) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (to / "given.onnx").write_bytes(data)
    child(monkeypatch, COPY.format(str(to / "given.onnx")))


def kept_the_original(given: LoadedModel, why: str) -> None:
    result = simplify(given)
    (warning,) = result.warnings
    assert warning.startswith("onnxsim ")
    assert why in warning
    assert warning.endswith("going on with the original graph")
    assert [n.op_type for n in result.proto.graph.node] == [
        n.op_type for n in given.proto.graph.node
    ]
    assert result.max_error < 1e-6, "ONNX Runtime fuses otherwise where sizes are symbolic"
    fuse(result.proto)


# --- onnxsim itself


def test_batch_norm_identity_and_computed_shapes_go(tmp_path: Path) -> None:
    """PixelShuffle as exporters write it for an open size: shapes computed from shapes."""
    g = Graph(3)
    g.conv(12, bias=True)
    statistics = [g.rng.uniform(0.5, 1.5, 12).astype(np.float32) for _ in range(4)]
    g.node("BatchNormalization", g.last, *[g.constant(s) for s in statistics])
    source = g.node("Identity")

    def target(factor: int, *fixed: int) -> str:
        sides = g.node("Slice", g.node("Shape", source), *[g.constant([n]) for n in (2, 4)])
        sides = g.node("Mul", sides, g.constant([factor]))
        return g.node("Concat", g.constant(list(fixed)), sides, axis=0)

    split, merged = target(1, 1, 3, 2, 2), target(2, 1, 3)
    g.node("Reshape", source, split)
    g.node("Transpose", perm=[0, 1, 4, 2, 5, 3])
    g.node("Reshape", g.last, merged)

    given = loaded(g, tmp_path)
    result = simplify(given)
    assert result.warnings == ()
    assert [n.op_type for n in result.proto.graph.node] == ["Conv", "DepthToSpace"]
    assert result.max_error < 1e-5
    x = noise(3, 8, 12)
    expected = Session(given.proto).run(x)
    np.testing.assert_allclose(Session(result.proto).run(x), expected, rtol=1e-5, atol=1e-5)
    assert Session(result.proto).run(noise(3, 5, 7)).shape == (1, 3, 10, 14)
    net = fuse(result.proto)
    assert net.convs[0].bias.any()


def test_a_simple_graph_keeps_its_operators(tmp_path: Path) -> None:
    result = simplify(loaded(bicubic_plusplus(), tmp_path))
    assert result.warnings == ()
    assert result.max_error == 0
    assert len(fuse(result.proto).convs) == 4


# --- children that fail


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.abort()", "failed (exit status -6: no message)"),
        ("import os; os.kill(os.getpid(), 11)", "failed (exit status -11: no message)"),
        ("raise MemoryError('too much')", "failed (exit status 1: MemoryError: too much)"),
        ("import sys; sys.exit(3)", "failed (exit status 3: no message)"),
        ("pass", "failed (exit status 0: no message)"),
        (
            r"import sys; sys.stderr.buffer.write(b'first\n\xff\xfe'); sys.exit(1)",
            "failed (exit status 1: \ufffd\ufffd)",
        ),
    ],
)
def test_a_child_that_crashes(
    code: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, code)
    kept_the_original(loaded(bicubic_plusplus(), tmp_path), why)


def test_a_child_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.3)
    child(monkeypatch, "import time; time.sleep(60)")
    kept_the_original(loaded(bicubic_plusplus(), tmp_path), "took longer than 0.3 s")


@pytest.mark.parametrize("name", GRAPHS)
def test_without_onnxsim_every_graph_is_built_all_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, "raise SystemExit(1)")
    g = GRAPHS[name]()
    shape = {"input": (1, g.channels["input"], 8, 12)}
    kept_the_original(loaded(g, tmp_path, shape), "failed")


def test_without_onnxsim_a_fixed_pixel_shuffle_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, "raise SystemExit(1)")
    g = Graph(3, (8, 12))
    g.conv(12)
    g.reshape_shuffle(2, (8, 12), nodes=True)
    result = simplify(loaded(g, tmp_path))
    assert [n.op_type for n in result.proto.graph.node] == ["Conv", "DepthToSpace"]
    assert result.max_error == 0


# --- children that lie


def with_first_weight(model: onnx.ModelProto, change: object) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = other.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), weight.name))
    return other


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w * np.float32(1.01), "changed the result by "),
        (lambda w: w * np.float32(np.nan), "made a graph that cannot be built (the constant"),
        (lambda w: w * np.float32(np.inf), "made a graph that cannot be built (the constant"),
        (lambda w: w[:, :2], "made a graph that cannot be built (its weight [4, 2, 3, 3]"),
    ],
)
def test_a_child_that_changes_the_result(
    change: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = loaded(bicubic_plusplus(), tmp_path)
    child_gives(monkeypatch, with_first_weight(given.proto, change), tmp_path)
    kept_the_original(given, why)


def test_a_difference_of_rounding_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = loaded(bicubic_plusplus(), tmp_path)
    child_gives(
        monkeypatch, with_first_weight(given.proto, lambda w: w * np.float32(1 + 1e-6)), tmp_path
    )
    result = simplify(given)
    assert result.warnings == ()
    assert 0 < result.max_error < 1e-5


def test_a_child_that_gives_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = loaded(bicubic_plusplus(2), tmp_path)
    child_gives(monkeypatch, bicubic_plusplus(3).model(), tmp_path)
    kept_the_original(given, "changed the output's shape to [1, 3, 24, 36]")
    child_gives(monkeypatch, espcn().model(), tmp_path)
    kept_the_original(given, "made a graph that does not run")
    child_gives(monkeypatch, b"not ONNX" * 20, tmp_path)
    kept_the_original(given, "wrote a damaged file")


# --- networks at fault themselves


def test_a_network_with_other_channels_than_the_spec_is_refused(tmp_path: Path) -> None:
    """Shape inference does not compare them with the weights."""
    model = bicubic_plusplus().model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    given = loaded(model, tmp_path, {"input": (1, 5, 8, 12)})
    with pytest.raises(ModelError, match="do not fit 5 input channels") as caught:
        simplify(given)
    assert "frontend.shape" in caught.value.fix


def test_a_network_whose_output_is_not_finite_is_refused(tmp_path: Path) -> None:
    g = Graph(3)
    g.conv(3, weight=np.full((3, 3, 3, 3), 3e38))
    g.conv(3)
    with pytest.raises(ModelError, match="infinite or not a number") as caught:
        simplify(loaded(g, tmp_path))
    assert caught.value.where == str(tmp_path / "net.onnx")


def test_networks_that_fuse_refuses_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, "raise SystemExit(1)")
    g = Graph(3)
    first = g.conv(3)
    g.conv(3, source="input")
    two = loaded(g.model(first, g.last), tmp_path)
    with pytest.raises(ModelError, match=r"2 outputs.*onnxsim failed"):
        simplify(two)
    batch = loaded(bicubic_plusplus(), tmp_path, {"input": (2, 3, 8, 12)})
    assert simplify(batch).max_error == 0


def test_nothing_of_an_unknown_operator_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of 2^62 bytes that only running the graph would make: nobody gets that far."""
    g = Graph(3)
    g.conv(3)
    size = g.node("Cast", g.node("ReduceMax", g.node("Abs"), keepdims=0), to=7)
    size = g.node("Mul", size, g.constant(np.int64(1 << 40)))
    side = g.node("Reshape", size, g.constant([1]))
    g.node("ConstantOfShape", g.node("Concat", *[side] * 4, axis=0))
    monkeypatch.setattr(module, "Session", None)
    with pytest.raises(UnsupportedOperatorError, match="ConstantOfShape"):
        simplify(loaded(g, tmp_path))


def test_only_what_must_be_simplified_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    g = bicubic_plusplus()
    child(monkeypatch, "raise SystemExit(1)")
    assert [n.op_type for n in supported(loaded(g, tmp_path)).graph.node][-1] == "DepthToSpace"
    g.node("Identity")
    given = loaded(g, tmp_path)
    with pytest.raises(UnsupportedOperatorError, match=r"Identity.*onnxsim failed"):
        supported(given)
    monkeypatch.undo()
    assert "Identity" not in [n.op_type for n in supported(given).graph.node]
