"""compiler.qdq: what is written is read back, and means the same in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.images import ToTensor, apply_ops, read_image
from calib.images.process_ops import Normalize
from calib.methods import Percentile
from compiler import qdq, reference
from compiler.errors import ModelError
from compiler.floatnet import FloatNetwork
from compiler.fusion import fuse
from compiler.network import Network, QuantizeInput
from compiler.ports import with_io
from compiler.runner import Session
from models.bicubic_plusplus import to_onnx
from models.official import read_state
from tests.graphs import GRAPHS, Graph, random_graph
from tests.networks import bicubic_plusplus
from tests.quantized import integer_network, noise

SHARED = Path(__file__).parents[2].parent / "shared"
MODELS = Path(__file__).parents[2] / "models"

END_TO_END_DB = 55
STEP_SHARE = 1e-3


def assert_same(a: object, b: object, at: str = "") -> None:
    """Equality of all fields, arrays by value and type."""
    assert type(a) is type(b), at
    if is_dataclass(a):
        for f in fields(a):
            assert_same(getattr(a, f.name), getattr(b, f.name), f"{at}.{f.name}")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, at
        np.testing.assert_array_equal(a, b, err_msg=at)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a:
            assert_same(a[key], b[key], f"{at}[{key}]")
    elif isinstance(a, tuple):
        assert len(a) == len(b), at
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{at}[{i}]")
    else:
        assert a == b, at


def psnr_db(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(peak**2 / max(error, 1e-30)))


# --- round trip


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_what_is_written_is_read_back(
    seed: int, symmetric: bool, per_channel: bool, power2: bool
) -> None:
    _, net = integer_network(
        random_graph(seed).model(), symmetric=symmetric, per_channel=per_channel, power2=power2
    )
    model = qdq.write(net)
    assert_same(qdq.read(model), net)
    through_bytes = onnx.load_model_from_string(model.SerializeToString())
    assert_same(qdq.read(through_bytes), net)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_graph_is_read_back(name: str, symmetric: bool) -> None:
    _, net = integer_network(GRAPHS[name]().model(), symmetric=symmetric)
    assert_same(qdq.read(qdq.write(net)), net)


def test_networks_of_frames_are_written_with_float_ends() -> None:
    _, net = integer_network(GRAPHS["bicubic_plusplus"]().model())
    frames = with_io(net, "uint8", "uint8", np.zeros((3, 256), np.int8))
    assert_same(qdq.read(qdq.write(frames)), net)


def test_a_network_built_by_hand_is_read_back() -> None:
    """But for the names that ONNX has no place for."""
    net = bicubic_plusplus(2, asymmetric=True)
    again = qdq.read(qdq.write(net))
    x = noise(3, 6, 8)
    np.testing.assert_array_equal(reference.run(again, x), reference.run(net, x))
    assert_same(qdq.read(qdq.write(again)), again)


def test_the_same_network_gives_the_same_bytes() -> None:
    _, net = integer_network(GRAPHS["branches"]().model())
    first, second = (qdq.write(n).SerializeToString() for n in (net, qdq.read(qdq.write(net))))
    assert first == second


def test_files_pass_onnx_s_full_check_with_symbolic_sizes() -> None:
    for name, build in GRAPHS.items():
        floats, net = integer_network(build().model())
        for model in (qdq.write(net), qdq.write_float(floats)):
            onnx.checker.check_model(model, full_check=True)
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
            dims = model.graph.input[0].type.tensor_type.shape.dim
            assert [d.dim_param for d in dims] == ["", "", "height", "width"], name


def test_names_that_the_writer_would_give_may_be_taken() -> None:
    """As TensorFlow names tensors: add, add_1, ..., with every name the writer derives."""
    g = Graph(3)

    def rename(new: str) -> str:
        g.channels[new] = g.channels[g.last]
        g.nodes[-1].output[0] = g.last = new
        return new

    g.conv(4, name="conv")
    first = rename("add_1")
    g.conv(4, name="conv.weight")
    g.leaky()
    g.add(first)
    rename("add")
    g.conv(4, name="add_1", bias=True)
    rename("add_q")
    g.conv(4, name="input")
    rename("add_dq")
    g.conv(4)
    rename("add_0")
    g.conv(4)
    rename("conv.weight_q")
    g.conv(4)
    rename("add_1_dq_scale")
    g.conv(4)
    g.prelu()
    rename("input_q")
    g.conv(3)
    model = g.model()
    floats, net = integer_network(model)
    assert_same(qdq.read(qdq.write(net)), replace(net))
    x = noise(3, 8, 8)
    expected = Session(model).run(x)
    np.testing.assert_allclose(Session(qdq.write_float(floats)).run(x), expected, atol=1e-5)
    y = Session(qdq.write(net), optimize=False).run(x)
    assert psnr_db(reference.run(net, x), y, np.abs(expected).max()) > END_TO_END_DB


# --- the float network


def same_in_onnx_runtime(model: onnx.ModelProto, height: int = 12, width: int = 16) -> None:
    net = fuse(model)
    x = noise(net.channels[net.input], height, width) - np.float32(0.3)
    original = Session(model, optimize=False).run(x)
    ours = Session(qdq.write_float(net), optimize=False).run(x)
    np.testing.assert_allclose(ours, original, rtol=0, atol=1e-6 * np.abs(original).max())


@pytest.mark.parametrize("name", GRAPHS)
def test_the_float_network_is_the_original_graph(name: str) -> None:
    same_in_onnx_runtime(GRAPHS[name]().model())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_float_network_of_random_graphs(seed: int) -> None:
    same_in_onnx_runtime(random_graph(seed).model())


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_means_what_onnx_runtime_makes_of_it(auto: str) -> None:
    g = Graph(3)
    g.conv(4, (2, 4), auto_pad=auto)
    g.node("MaxPool", kernel_shape=(2, 4), auto_pad=auto)
    g.conv(3, (3, 2), auto_pad=auto)  # ONNX Runtime has no dilation with SAME
    same_in_onnx_runtime(g.model())


@pytest.mark.parametrize("model", ["bicubic_plusplus_2x.onnx", "bicubic_plusplus_3x.onnx"])
def test_the_float_network_of_the_shipped_weights(model: str) -> None:
    same_in_onnx_runtime(onnx.load(MODELS / model), 24, 32)


# --- the integer network in ONNX Runtime, against the golden model


def upstream(net: Network, tensor: str) -> set[str]:
    """The rounding points whose integers reach `tensor` through data movement."""
    maker = next(op for op in net.ops if op.output == tensor)
    if maker in net.convs or isinstance(maker, QuantizeInput):
        return {tensor}
    return set().union(*(upstream(net, name) for name in maker.inputs))


def layers_agree(net: Network, x: np.ndarray) -> None:
    """Each layer, fed the golden model's integers, is at most a step apart on at most 0.1 %."""
    golden = dict(reference.trace(net, x))
    extractor = onnx.utils.Extractor(qdq.write(net))

    def integers(tensor: str) -> str:
        return tensor if tensor == net.ops[0].output else f"{tensor}_q"

    for conv in net.convs:
        points = sorted(set().union(*(upstream(net, name) for name in conv.inputs)))
        is_int8 = net.tensors[conv.output].kind == "int8"
        end = integers(conv.output) if is_int8 else conv.output
        part = extractor.extract_model([integers(name) for name in points], [end])
        feeds = {integers(name): golden[name][None] for name in points}
        (y,) = Session(part, optimize=False).run_all(feeds)
        expected = golden[conv.output]
        if is_int8:
            steps = np.abs(y[0].astype(int) - expected)
            assert steps.max() <= 1, conv.name
            assert (steps > 0).mean() <= STEP_SHARE, conv.name
        else:
            np.testing.assert_allclose(y[0], expected, atol=1e-5 * np.abs(expected).max())


def ends_agree(net: Network, x: np.ndarray, peak: float | None = None) -> None:
    golden = reference.run(net, x)
    y = Session(qdq.write(net), optimize=False).run(x)
    assert psnr_db(golden, y, peak or np.abs(golden).max()) >= END_TO_END_DB


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_onnx_runtime_agrees_with_the_golden_model(name: str, symmetric: bool) -> None:
    _, net = integer_network(GRAPHS[name]().model(), symmetric=symmetric)
    x = noise(net.input_tensor.channels, 32, 40, seed=9)
    layers_agree(net, x)
    ends_agree(net, x)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.booleans())
def test_random_graphs_in_onnx_runtime(seed: int, symmetric: bool) -> None:
    _, net = integer_network(random_graph(seed).model(), symmetric=symmetric)
    x = noise(net.input_tensor.channels, 32, 40, seed=9)
    layers_agree(net, x)
    ends_agree(net, x)


def committed(rate: int) -> onnx.ModelProto:
    return onnx.load(MODELS / f"bicubic_plusplus_{rate}x.onnx")


@cache
def official() -> onnx.ModelProto:
    pytest.importorskip("torch")
    checkpoint = SHARED / "models" / "bicubic_pp_x3.pth"
    if not checkpoint.exists():
        pytest.skip("the official checkpoint is not in ../shared")
    return to_onnx(read_state(checkpoint, 3), 3)


WEIGHTS: dict[str, Callable[[], onnx.ModelProto]] = {
    "ours 2x": lambda: committed(2),
    "ours 3x": lambda: committed(3),
    "official 3x": official,
}


def quantized(model: onnx.ModelProto, inputs: list[np.ndarray], symmetric: bool) -> Network:
    method = Percentile(0.9999)
    return integer_network(model, method=method, inputs=inputs, symmetric=symmetric)[1]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_trained_weights_on_noise(weights: str, symmetric: bool) -> None:
    net = quantized(WEIGHTS[weights](), [noise(3, 48, 64, seed) for seed in (0, 1)], symmetric)
    x = noise(3, 62, 90, seed=9)
    layers_agree(net, x)
    ends_agree(net, x, peak=1)
    assert_same(qdq.read(qdq.write(net)), net)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_trained_weights_on_photographs(weights: str) -> None:
    folder = SHARED / "data" / "set5" / "LR_bicubic" / "X3"
    if not folder.is_dir():
        pytest.skip("Set5 is not in ../shared")
    ops = (Normalize(), ToTensor())
    photos = [apply_ops(ops, read_image(path))[None] for path in sorted(folder.iterdir())]
    even = [x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2] for x in photos]
    net = quantized(WEIGHTS[weights](), even[:2], symmetric=True)
    for x in even[2:]:
        layers_agree(net, x)
        ends_agree(net, x, peak=1)


# --- bad files


def without(model: onnx.ModelProto, initializer: str) -> onnx.ModelProto:
    kept = [i for i in model.graph.initializer if i.name != initializer]
    assert len(kept) == len(model.graph.initializer) - 1
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def small() -> tuple[FloatNetwork, onnx.ModelProto]:
    g = Graph(3)
    g.conv(4, bias=True, name="first")
    g.conv(2, name="second")
    floats, net = integer_network(g.model())
    return floats, qdq.write(net)


@pytest.mark.parametrize(
    "missing",
    [
        "input_q_dq_scale",
        "input_q_dq_zero_point",
        "t0_dq_scale",
        "first.weight_scale",
        "first.bias_scale",
        "first.weight_q",
        "first.bias_q",
    ],
)
def test_a_missing_constant_is_refused(missing: str) -> None:
    with pytest.raises(ModelError) as caught:
        qdq.read(without(small()[1], missing))
    assert caught.value.where
    assert caught.value.fix


def test_a_float_model_is_no_qdq_model() -> None:
    with pytest.raises(ModelError, match="no scale for 'input'"):
        qdq.read(qdq.write_float(small()[0]))


def test_a_tensor_that_is_not_quantized_is_refused() -> None:
    """t0 is read without Quantize and Dequantize between."""
    model = small()[1]
    nodes = [n for n in model.graph.node if not n.output[0].startswith("t0_")]
    for node in nodes:
        node.input[:] = ["t0" if name == "t0_dq" else name for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(ModelError, match="no scale for 't0'"):
        qdq.read(model)


def swapped(name: str, value: np.ndarray) -> onnx.ModelProto:
    model = without(small()[1], name)
    model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("t0_dq_scale", np.ones(4, np.float32), "by one scale"),
        ("t0_dq_zero_point", np.array(0, np.uint8), "by one scale"),
        ("first.weight_scale", np.array(1, np.float32), "int8 per output channel"),
        ("first.weight_q", np.ones((4, 3, 3, 3), np.uint8), "int8 per output channel"),
        ("first.bias_q", np.ones(4, np.int8), "int8 per output channel"),
        ("second.weight_q", np.ones((3, 4, 3, 3), np.int8), "int8 per output channel"),
    ],
)
def test_constants_of_another_kind_are_refused(name: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        qdq.read(swapped(name, value))
    assert caught.value.fix
