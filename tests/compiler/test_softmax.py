"""A Softmax behind the network: float32 on the host, shared by golden model and library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import compiler
from calib import qparams
from calib.errors import WorkbenchError
from compiler import bundle, check, fusion, pipeline, qdq, reference, spec, vectors
from compiler.errors import CapabilityError, UnsupportedOperatorError
from compiler.floatnet import FloatNetwork
from compiler.host import Host
from compiler.library import build_library, load_library
from compiler.network import Network
from compiler.ports import with_io
from compiler.progress import silent
from compiler.recovery.split import split_residuals
from compiler.runner import Session
from tests.compiler.conftest import tiny_spec
from tests.graphs import Graph, bicubic_plusplus
from tests.quantized import integer_network, noise


def classifier(axis: int = 1) -> onnx.ModelProto:
    g = Graph(3)
    g.conv(4)
    g.relu()
    g.conv(5, bias=True)
    g.node("Softmax", axis=axis)
    return g.model()


def built() -> tuple[FloatNetwork, Network]:
    return integer_network(classifier())


# --- the function


def test_equals_binary64_and_sums_to_one() -> None:
    x = np.random.default_rng(0).normal(0, 20, (1, 7, 5, 6)).astype(np.float32)
    y = qparams.softmax(x)
    powers = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)


def test_the_largest_floats_do_not_overflow() -> None:
    x = np.array([3e38, -3e38, 3e38, -np.inf], np.float32).reshape(1, 4, 1, 1)
    assert qparams.softmax(x).ravel().tolist() == [0.5, 0, 0.5, 0]
    assert np.isnan(qparams.softmax(np.full((1, 2, 1, 1), np.inf, np.float32))).all()


# --- reading


@pytest.mark.parametrize("axis", [1, -3])
def test_the_head_is_no_operator_of_the_network(axis: int) -> None:
    net = fusion.fuse(classifier(axis))
    assert net.softmax
    assert [type(op).__name__ for op in net.ops] == ["QuantizeInput", "FloatConv", "FloatConv"]
    assert net.output == net.convs[-1].output


@pytest.mark.parametrize("axis", [0, 2, 3, -1])
def test_other_axes_are_refused_by_node(axis: int) -> None:
    with pytest.raises(UnsupportedOperatorError, match="axis 1") as error:
        fusion.fuse(classifier(axis))
    assert "softmax3 (Softmax)" in error.value.where


def test_in_the_middle_it_is_refused_by_node() -> None:
    g = Graph(3)
    g.conv(4)
    g.node("Softmax", axis=1)
    g.conv(3)
    with pytest.raises(UnsupportedOperatorError, match="last operator") as error:
        fusion.fuse(g.model())
    assert "softmax1 (Softmax)" in error.value.where


def test_a_second_one_is_refused_by_node() -> None:
    g = Graph(3)
    g.conv(4)
    g.node("Softmax", axis=1)
    g.node("Softmax", axis=1)
    with pytest.raises(UnsupportedOperatorError, match="last operator") as error:
        fusion.fuse(g.model())
    assert "softmax1 (Softmax)" in error.value.where


def test_its_input_must_be_a_convolution_s() -> None:
    g = Graph(3)
    g.node("Softmax", axis=1)
    with pytest.raises(UnsupportedOperatorError):
        fusion.fuse(g.model())


# --- the integer network


def test_library_and_golden_model_agree(tmp_path: Path) -> None:
    _, net = built()
    x, host = noise(3, 20, 28), Host("portable", 1)
    build_library(net, (20, 28), host, tmp_path / "mod.so")
    logits = load_library(tmp_path / "mod.so", host)(x)
    np.testing.assert_array_equal(logits, reference.run(net.logits, x))
    np.testing.assert_array_equal(net.on_host(logits), reference.run(net, x))
    assert abs(reference.run(net, x).sum(axis=1) - 1).max() < 1e-6


def test_onnx_runtime_computes_the_same_head() -> None:
    floats, net = built()
    x = noise(3, 16, 24)
    logits = Session(qdq.write_float(floats)).run(x)
    np.testing.assert_allclose(qparams.softmax(logits), Session(classifier()).run(x), atol=1e-6)
    outside = Session(qdq.write(net), optimize=False).run(x)
    assert outside.shape == (1, 5, 16, 24)
    np.testing.assert_allclose(outside, reference.run(net, x), atol=0.05)


def test_qdq_and_every_rewriting_keep_it() -> None:
    floats, net = built()
    model = qdq.write(net)
    assert model.graph.node[-1].op_type == "Softmax"
    onnx.checker.check_model(model, full_check=True)
    again = qdq.read(model)
    assert (again.softmax, again.output) == (True, net.output)
    x = noise(3, 8, 8)
    np.testing.assert_array_equal(reference.run(again, x), reference.run(net, x))
    assert qdq.write(again).SerializeToString() == model.SerializeToString()
    assert with_io(net, "uint8", "float32", np.zeros((3, 256), np.int8)).softmax
    assert split_residuals(floats).softmax
    assert not fusion.fuse(qdq.write_float(floats)).softmax


def test_bytes_are_refused_behind_it() -> None:
    with pytest.raises(CapabilityError, match="softmax") as error:
        with_io(built()[1], "float32", "uint8", None)
    assert error.value.key == "backend.output.dtype"


# --- specs


HEAD: dict[str, object] = {"graph": {"extra_ops": {"type": "softmax"}}}


def model_with_head(folder: Path) -> Path:
    model = bicubic_plusplus(2).model()
    output = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Softmax", [output], ["p"], "head", axis=1))
    model.graph.output[0].name = "p"
    onnx.save(model, folder / "head.onnx")
    return folder / "head.onnx"


@pytest.mark.parametrize("own", [False, True])
def test_a_build_from_spec_to_bundle(tiny_folder: Path, own: bool) -> None:
    """The network's own head, which the spec may name too, or one that the spec appends."""
    changes: dict[str, object] = HEAD
    if own:
        changes = HEAD | {"frontend__checkpoint": str(model_with_head(tiny_folder))}
    path = tiny_spec(tiny_folder, name=f"head-{own}", **changes)
    assert check.judge(path).verdict == "buildable"
    result = pipeline.run(spec.load(path), silent(), out=tiny_folder / "heads")
    assert result.accuracy is not None
    assert result.accuracy.bit_exact.equal
    assert result.bundle is not None
    engine = bundle.load(result.bundle).engine
    assert engine.net.softmax
    assert vectors.check(result.bundle / "golden", engine) > 0
    x = noise(3, 18, 30)
    y = compiler.load(result.bundle)(x)
    np.testing.assert_array_equal(y, compiler.golden(result.bundle)(x))
    assert abs(y.sum(axis=1) - 1).max() < 1e-6
    fp32 = [n.op_type for n in onnx.load(result.bundle / "fp32.onnx").graph.node]
    assert fp32.count("Softmax") == 1
    with pytest.raises(WorkbenchError, match="softmax"):
        compiler.load(result.bundle)(np.zeros((8, 8, 3), np.uint8))


def test_recovery_does_not_see_the_head(tiny_folder: Path) -> None:
    """Weights and thresholds are those of the network without it."""

    def integers(**changes: object) -> Network:
        path = tiny_spec(tiny_folder, backend__quantize__search="output", **changes)
        out = tiny_folder / "-".join(["recovery", *changes])
        net = pipeline.run(spec.load(path), silent(), out=out, until="quantize").net
        assert net is not None
        return net

    plain, headed = integers(), integers(**HEAD)
    assert (plain.softmax, headed.softmax) == (False, True)
    assert qdq.write(replace(headed, softmax=False)) == qdq.write(plain)


def test_bytes_of_a_network_with_a_head_are_refused_before_any_work(tiny_folder: Path) -> None:
    head = str(model_with_head(tiny_folder))
    for changes in ({"frontend__checkpoint": head}, HEAD, {"frontend__checkpoint": head} | HEAD):
        path = tiny_spec(tiny_folder, backend__output__dtype="uint8", **changes)
        (reason,) = check.judge(path).reasons
        assert (reason.code, reason.key) == ("capability", "backend.output.dtype")
        with pytest.raises(CapabilityError, match="softmax"):
            pipeline.run(spec.load(path), silent(), until="model")
