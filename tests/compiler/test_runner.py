"""compiler.runner: sessions, outputs beside the graph's own, and what ONNX Runtime refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from compiler import qdq
from compiler.errors import ModelError
from compiler.runner import Session, random_input
from tests.graphs import GRAPHS, Graph, bicubic_plusplus, two_chains
from tests.quantized import integer_network, noise


@pytest.mark.parametrize("name", ["bicubic_plusplus", "prelu", "residual_groups", "two_chains"])
@pytest.mark.parametrize("optimize", [True, False])
def test_against_onnx_s_reference(name: str, optimize: bool) -> None:
    model = GRAPHS[name]().model()
    x = noise(3, 8, 12)
    (expected,) = ReferenceEvaluator(model).run(None, {"input": x})
    y = Session(model, optimize=optimize).run(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("optimize", [True, False])
def test_outputs_by_name_come_after_the_graph_s_own(optimize: bool) -> None:
    g = two_chains()
    model = g.model()
    before = model.SerializeToString()
    x = noise(3, 8, 12)
    expected = ReferenceEvaluator(g.model("t4", "t3", "t0")).run(None, {"input": x})
    values = Session(model, ["t3", "t0", "t4"], optimize=optimize).run_all({"input": x})
    assert len(values) == 3, "the output itself is not repeated"
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    assert model.SerializeToString() == before


def test_integers_of_a_qdq_model_can_be_read_too() -> None:
    _, net = integer_network(bicubic_plusplus().model())
    session = Session(qdq.write(net), ["input_q", "t1_q", "t1_dq"], optimize=False)
    _, first, second, third = session.run_all({"input": noise(3, 8, 12)})
    assert first.dtype == second.dtype == np.int8
    np.testing.assert_array_equal(third, second * np.float32(net.tensors["t1"].q.scale))


def test_runs_repeat_bit_for_bit() -> None:
    model = bicubic_plusplus().model()
    x = noise(3, 16, 20)
    first = Session(model, threads=2)
    answers = [first.run(x), first.run(x), Session(model, threads=2).run(x)]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_an_output_that_does_not_exist() -> None:
    with pytest.raises(ModelError, match="cannot load the network") as caught:
        Session(bicubic_plusplus().model(), ["absent"])
    assert caught.value.where == "graph tiny"
    assert caught.value.fix


def test_a_model_that_onnx_runtime_refuses() -> None:
    g = Graph(3)
    g.node("Unheard")
    with pytest.raises(ModelError, match=r"cannot load.*Unheard"):
        Session(g.model())
    with pytest.raises(ModelError, match="cannot load"):
        Session(onnx.ModelProto())


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 3, 0, 8)])
def test_an_input_of_another_shape(
    shape: tuple[int, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    session = Session(bicubic_plusplus().model())
    with pytest.raises(ModelError, match=r"fails on inputs of shape.*'input'") as caught:
        session.run(np.zeros(shape, np.float32))
    assert "\n" not in caught.value.what
    assert str(shape) in caught.value.what
    assert capfd.readouterr() == ("", ""), "nothing but the exception"


def test_an_input_of_another_type() -> None:
    with pytest.raises(ModelError, match="fails on inputs"):
        Session(bicubic_plusplus().model()).run(np.zeros((1, 3, 8, 8), np.float64))


def test_random_input() -> None:
    x = random_input(3, 5, 7, seed=1)
    assert (x.shape, x.dtype) == ((1, 3, 5, 7), np.float32)
    assert x.min() >= 0
    assert x.max() < 1
    np.testing.assert_array_equal(x, random_input(3, 5, 7, seed=1))
    assert (x != random_input(3, 5, 7, seed=2)).any()
    assert abs(random_input(3, 100, 100, seed=0).mean() - 0.5) < 0.01
