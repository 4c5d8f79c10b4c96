"""compiler.fusion: which chains are formed, and what is refused, by node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import numpy_helper

from compiler.errors import ModelError, UnsupportedOperatorError
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.fusion import fuse
from compiler.network import (
    Concat,
    DepthToSpace,
    MaxPool,
    QuantizeInput,
    Residual,
    ResizeNearest,
)
from compiler.operators import READERS
from tests import graphs
from tests.graphs import GRAPHS, Graph


def read(g: Graph, *outputs: str, opset: int = 17) -> FloatNetwork:
    return fuse(g.model(*outputs, opset=opset))


def shape_of(op: FloatConv) -> str:
    """A chain in short: conv input>output, then its steps."""
    steps = "".join(
        f"+{s.tensor}" if isinstance(s, Residual) else f"*{s.alpha.ravel()[0]:.3g}"
        for s in op.steps
    )
    return f"{op.input}>{op.output}{steps}"


def chains(net: FloatNetwork) -> list[str]:
    return [shape_of(conv) for conv in net.convs]


# --- chains


def test_bicubic_plusplus_is_four_chains() -> None:
    net = read(graphs.bicubic_plusplus())
    assert chains(net) == ["input_q>t1*0.1", "t1>t3*0.1", "t3>t6*0.1+t1", "t6>t7"]
    assert isinstance(net.ops[0], QuantizeInput)
    assert (net.ops[0].input, net.ops[0].output, net.ops[0].table) == ("input", "input_q", None)
    assert net.ops[-1] == DepthToSpace("depthtospace8", "t7", "t8", 4, "CRD")
    assert (net.input, net.output, net.name) == ("input", "t8", "tiny")
    assert net.float_tensors == {"input", "t7", "t8"}
    assert net.rounding_points == ("input_q", "t1", "t3", "t6")
    assert net.channels == {"input": 3, "input_q": 3, "t1": 4, "t3": 4, "t6": 4, "t7": 48, "t8": 3}


def test_geometry_weights_and_biases_are_read() -> None:
    g = Graph(4)
    weight = np.arange(6 * 2 * 3 * 2).reshape(6, 2, 3, 2)
    g.conv(
        6, weight=weight, groups=2, bias=True, strides=(2, 1), dilations=(1, 3), pads=(0, 1, 2, 3)
    )
    g.conv(1, 1)
    first, second = read(g).convs
    np.testing.assert_array_equal(first.weight, weight)
    assert first.weight.dtype == first.bias.dtype == np.float32
    assert first.bias.any()
    assert (first.strides, first.dilations, first.pads) == ((2, 1), (1, 3), (0, 1, 2, 3))
    assert (first.groups, first.kernel, first.name) == (2, (3, 2), "conv0")
    np.testing.assert_array_equal(second.bias, [0])
    assert (second.strides, second.pads, second.groups) == ((1, 1), (0, 0, 0, 0), 1)


def test_two_fusible_chains_meet_in_the_later_one() -> None:
    g = Graph(3)
    early, late = g.conv(4, source="input"), g.conv(4, source="input")
    for first, second in [(early, late), (late, early)]:
        g.add(first, second)
        g.conv(3)
        assert chains(read(g))[:2] == [f"input_q>{early}", f"input_q>t2+{early}"]
        del g.nodes[-2:]


def test_an_activation_makes_a_chain_no_later() -> None:
    """Order counts where chains end: the first convolution, activated last, is later."""
    g = Graph(3)
    early, late = g.conv(4, source="input"), g.conv(4, source="input")
    g.last = early
    g.relu()
    g.add(late)
    g.conv(3)
    assert chains(read(g))[:2] == [f"input_q>{late}", f"input_q>t3*0+{late}"]


def test_chains_grow_through_several_steps() -> None:
    g = Graph(3)
    a = g.conv(4)
    g.conv(4)
    g.leaky()
    g.add(a)
    g.relu()
    g.add(a)
    g.conv(3)
    assert chains(read(g)) == ["input_q>t0", "t0>t5*0.1+t0*0+t0", "t5>t6"]


def test_a_value_with_a_second_consumer_is_quantized_on_its_own() -> None:
    g = Graph(3)
    a = g.conv(4)
    b = g.conv(4)
    g.conv(4, source=b)
    g.add(b)  # b is read twice: it cannot grow; the convolution behind it can
    g.add(a)
    g.conv(3)
    assert chains(read(g)) == ["input_q>t0", "t0>t1", "t1>t4+t1+t0", "t4>t5"]


def test_only_the_operand_that_can_grow_does() -> None:
    """`late` would be chosen, were it not read twice."""
    g = Graph(3)
    early, late = g.conv(4, source="input"), g.conv(4, source="input")
    total = g.add(early, late)
    g.conv(4, source=late)
    g.add(total)
    g.conv(3)
    assert chains(read(g))[:3] == [f"input_q>{late}", f"input_q>{total}+{late}", "t1>t4+t2"]


def test_the_graph_input_may_be_a_residual() -> None:
    g = Graph(3)
    g.conv(3)
    g.add("input")
    g.conv(3)
    assert chains(read(g)) == ["input_q>t1+input_q", "t1>t2"]


def test_slopes() -> None:
    g = Graph(3)
    g.conv(4)
    g.prelu()
    g.conv(4)
    g.prelu(1)
    g.conv(4)
    g.node("LeakyRelu")  # ONNX's default slope
    g.conv(3)
    alphas = [conv.steps[0].alpha for conv in read(g).convs[:3]]
    assert [a.shape for a in alphas] == [(4,), (1,), (1,)]
    assert all(a.dtype == np.float32 for a in alphas)
    assert alphas[2] == np.float32(0.01)


def test_moves_are_read() -> None:
    net = read(graphs.branches())
    by_type = {type(op): op for op in net.ops}
    assert by_type[MaxPool] == MaxPool("maxpool1", "t0", "t1", (2, 2), (2, 2))
    assert by_type[ResizeNearest] == ResizeNearest("resize4", "t3", "t4", (2, 2))
    assert by_type[Concat] == Concat("concat6", ("t5", "t4"), "t6")
    assert net.channels["t6"] == 10
    assert net.rounding_points == ("input_q", "t0", "t3", "t5")


@pytest.mark.parametrize(
    ("auto", "kernel", "dilation", "pads"),
    [
        ("SAME_UPPER", (3, 4), 1, (1, 1, 1, 2)),
        ("SAME_LOWER", (3, 4), 1, (1, 2, 1, 1)),
        ("SAME_UPPER", (2, 3), 2, (1, 2, 1, 2)),
        ("VALID", (3, 3), 1, (0, 0, 0, 0)),
    ],
)
def test_auto_pad(auto: str, kernel: tuple[int, int], dilation: int, pads: tuple[int, ...]) -> None:
    g = Graph(3)
    g.conv(3, kernel, dilations=(dilation, dilation), auto_pad=auto)
    assert read(g).convs[0].pads == pads


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_can_be_read(name: str) -> None:
    net = read(GRAPHS[name]())
    made = [net.input]
    for op in net.ops:
        assert set(op.inputs) <= set(made), "operators stand in topological order"
        made.append(op.output)
    assert set(net.channels) == set(made)
    assert net.output in made


# --- names


def test_nodes_of_one_name_or_none_get_names_of_their_own() -> None:
    g = Graph(3)
    g.conv(3, name="conv")
    g.conv(3, name="conv")
    g.conv(3, name="")
    g.conv(3, name="t2")
    g.nodes[-1].output[0] = g.last = "out"
    net = read(g, "out")
    assert [c.name for c in net.convs] == ["conv", "t1", "t2", "out"]


def test_a_tensor_with_the_name_of_the_quantized_input() -> None:
    g = Graph(3)
    g.conv(3)
    g.nodes[-1].output[0] = "input_q"
    g.channels["input_q"] = 3
    g.conv(3, source="input_q")
    assert chains(read(g)) == ["input_q_>input_q", "input_q>t1"]


# --- refusals


def start() -> Graph:
    g = Graph(3)
    g.conv(4)
    return g


def after(change: Callable[[Graph], object]) -> Callable[[], Graph]:
    def build() -> Graph:
        g = start()
        change(g)
        return g

    return build


def conv_of_constants(g: Graph) -> None:
    g.node("Conv", g.constant(np.ones((1, 3, 4, 4), np.float32)), g.nodes[0].input[1], channels=4)


def computed_weight(g: Graph) -> None:
    weight = g.node("Abs", g.nodes[0].input[1])
    g.node("Conv", "input", weight, channels=4)


def add_to_pool(g: Graph) -> None:
    pool = g.max_pool((1, 1), (1, 1))
    g.node("MaxPool", "t0", kernel_shape=(1, 1))
    g.add(pool)


def batch_norm(g: Graph) -> None:
    g.node("BatchNormalization", g.last, *[g.constant(np.ones(4, np.float32)) for _ in range(4)])


def slope_along_width(g: Graph) -> None:
    """ONNX broadcasts from the right: four slopes without axes of 1 belong to four columns."""
    g.node("PRelu", g.last, g.constant(np.ones(4, np.float32)))


def resize_to_sizes(g: Graph) -> None:
    sizes = g.constant(np.array([1, 4, 8, 8], np.int64))
    g.node("Resize", g.last, "", "", sizes, mode="nearest")


def resize_by(*scales: float) -> Callable[[Graph], None]:
    def build(g: Graph) -> None:
        constant = g.constant(np.array(scales, np.float32))
        g.resize_nearest()
        g.nodes[-1].input[2] = constant

    return build


def pool_with_indices(g: Graph) -> None:
    g.max_pool()
    g.nodes[-1].output.append("indices")


def foreign_domain(g: Graph) -> None:
    g.relu()
    g.nodes[-1].domain = "com.example"


REFUSED: dict[str, tuple[Callable[[Graph], object], str, str]] = {
    "sigmoid": (lambda g: g.node("Sigmoid"), "Sigmoid", "not define this operator"),
    "batch normalization": (batch_norm, "BatchNormalization", "not define this operator"),
    "foreign domain": (foreign_domain, "Relu", "not define this operator"),
    "add of a constant behind an activation": (
        lambda g: (g.relu(), g.add(g.constant(np.ones((1, 4, 1, 1), np.float32))))[-1],
        "Add",
        "right behind a convolution",
    ),
    "subtraction from a constant": (
        lambda g: g.node("Sub", g.constant(np.float32(1)), g.last, channels=4),
        "Sub",
        "take a constant from",
    ),
    "multiplication by a map": (
        lambda g: g.node("Mul", g.last, g.constant(np.ones((1, 4, 8, 8), np.float32))),
        "Mul",
        "neither one number nor one per channel",
    ),
    "arithmetic on an image that others read": (
        lambda g: g.node("Sub", "input", g.constant(np.float32(1)), channels=3),
        "Sub",
        "nothing else reads",
    ),
    "subtraction of what grows": (
        lambda g: g.node("Sub", g.max_pool((1, 1), (1, 1)), g.conv(4, source="input")),
        "Sub",
        "epilogue of a convolution",
    ),
    "add of non-chains": (add_to_pool, "Add", "epilogue of a convolution"),
    "add to itself": (lambda g: g.add(g.last), "Add", "epilogue of a convolution"),
    "add of other channels": (lambda g: g.add("input"), "Add", "differ in channels"),
    "activation of the input": (
        lambda g: g.node("Relu", "input"),
        "Relu",
        "epilogue of a convolution",
    ),
    "activation of a pool": (
        lambda g: (g.max_pool(), g.relu()),
        "Relu",
        "epilogue of a convolution",
    ),
    "activation of a value read twice": (
        lambda g: (g.relu(), g.conv(4, source="t0"), g.add("t1")),
        "Relu",
        "epilogue of a convolution",
    ),
    "slope along the width": (slope_along_width, "PRelu", "one number nor one per channel"),
    "slope per pixel": (
        lambda g: g.node("PRelu", g.last, g.constant(np.ones((1, 4, 5, 1), np.float32))),
        "PRelu",
        "one number nor one per channel",
    ),
    "3-D convolution": (
        lambda g: g.node("Conv", g.last, g.constant(np.ones((4, 4, 3, 3, 3), np.float32))),
        "Conv",
        "5 dimensions; only 2-D",
    ),
    "convolution of a constant": (conv_of_constants, "Conv", "is a constant"),
    "convolution with computed weights": (computed_weight, "Abs", "not define this operator"),
    "negative padding": (
        lambda g: g.conv(4, pads=(0, -1, 0, 0)),
        "Conv",
        "negative padding",
    ),
    "auto_pad with strides": (
        lambda g: g.conv(4, strides=(2, 2), auto_pad="SAME_UPPER"),
        "Conv",
        "depends on the image size",
    ),
    "linear resize": (lambda g: g.resize_nearest(mode="linear"), "Resize", "only nearest"),
    "half-pixel resize": (
        lambda g: g.resize_nearest(coordinate_transformation_mode="half_pixel"),
        "Resize",
        "only nearest",
    ),
    "rounding resize": (
        lambda g: g.resize_nearest(nearest_mode="round_prefer_floor"),
        "Resize",
        "only nearest",
    ),
    "resize to sizes": (resize_to_sizes, "Resize", "only nearest"),
    "resize by a half": (resize_by(1, 1, 0.5, 0.5), "Resize", "not whole factors"),
    "resize to nothing": (resize_by(1, 1, 0, 2), "Resize", "not whole factors"),
    "resize of channels": (resize_by(1, 2, 2, 2), "Resize", "not whole factors"),
    "resize of two axes": (resize_by(2, 2), "Resize", "not whole factors"),
    "pool with ceil_mode": (lambda g: g.max_pool(ceil_mode=1), "MaxPool", "ceil_mode"),
    "dilated pool": (lambda g: g.max_pool(dilations=(2, 2)), "MaxPool", "ceil_mode"),
    "pool with indices": (pool_with_indices, "MaxPool", "indices"),
    "pool with wide padding": (
        lambda g: g.max_pool(pads=(0, 0, 2, 0)),
        "MaxPool",
        "not smaller than its window",
    ),
    "concat of rows": (
        lambda g: g.node("Concat", "t0", "t0", axis=2),
        "Concat",
        "axis 1",
    ),
    "concat with a constant": (
        lambda g: g.node("Concat", "t0", g.constant(np.ones((1, 2, 8, 8), np.float32)), axis=1),
        "Concat",
        "is a constant",
    ),
}


def test_the_normalization_of_the_image_is_one_affine_map() -> None:
    first = read(graphs.normalized()).quantize_input
    np.testing.assert_array_equal(first.mean, np.float32([0.4, 0.5, 0.6]))
    np.testing.assert_array_equal(first.std, np.float32([0.5]))
    assert first.normalizes
    x = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    expected = 2 * (x - np.float32([0.4, 0.5, 0.6]).reshape(3, 1, 1))
    np.testing.assert_allclose(first.normalized(x), expected, rtol=1e-6)


def test_arithmetic_behind_a_convolution_becomes_its_weights_and_bias() -> None:
    g = graphs.normalized()
    weight, bias = (numpy_helper.to_array(c) for c in g.constants[2:4])
    conv, last = read(g).convs
    gain = np.float32([1, 2, 0.5, -1])
    np.testing.assert_array_equal(conv.weight, weight * gain.reshape(4, 1, 1, 1))
    np.testing.assert_allclose(conv.bias, bias * gain + np.float32(0.1), rtol=1e-6)
    assert not last.bias.any()


@pytest.mark.parametrize(
    ("op", "value", "error", "why"),
    [
        ("Mul", -1, UnsupportedOperatorError, "positive factors"),
        ("Div", 0, ModelError, "divides by zero"),
        ("Mul", 1e-45, UnsupportedOperatorError, "leaves the range of binary32"),
    ],
)
def test_an_image_cannot_be_normalized_by(
    op: str, value: float, error: type[Exception], why: str
) -> None:
    g = Graph(3)
    g.node(op, "input", g.constant(np.float32(value)), channels=3)
    g.conv(4)
    with pytest.raises(error, match=why):
        read(g)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_node(case: str) -> None:
    change, operator, why = REFUSED[case]
    g = start()
    change(g)
    with pytest.raises(UnsupportedOperatorError, match=why) as caught:
        read(g)
    node = next(n for n in g.nodes[1:] if n.op_type == operator)
    assert caught.value.where == f"node {node.name} ({operator})"
    assert operator in caught.value.what
    assert caught.value.fix


def test_a_refused_node_without_a_name_is_named_by_its_output() -> None:
    g = start()
    g.node("Sigmoid", name="")
    with pytest.raises(UnsupportedOperatorError) as caught:
        read(g)
    assert caught.value.where == "node t1 (Sigmoid)"
    assert set(READERS) <= set(caught.value.fix.replace(",", "").replace(";", "").split())


@pytest.mark.parametrize("rank", [3, 5])
def test_a_network_of_signals_or_volumes_is_refused(rank: int) -> None:
    g = Graph(3)
    g.conv(4, weight=np.ones((4, *[3] * (rank - 1))), pads=(1,) * (2 * rank - 4))
    g.shape = [1, 3, *["n"] * (rank - 2)]
    with pytest.raises(UnsupportedOperatorError, match=f"has {rank} dimensions") as caught:
        read(g)
    assert caught.value.where == "input input"


def test_several_inputs_or_outputs_are_refused() -> None:
    g = start()
    with pytest.raises(ModelError, match=r"2 outputs: \['t0', 't1'\]"):
        read(g, "t0", g.conv(3))
    model = g.model()
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "second"
    with pytest.raises(ModelError, match=r"2 inputs: .*'second'"):
        fuse(model)
    del model.graph.input[1], model.graph.output[:]
    with pytest.raises(ModelError, match="0 outputs"):
        fuse(model)


def read_by_conv(g: Graph) -> str:
    return g.conv(4) and "t0"


def read_by_last_conv_beside_concat(g: Graph) -> str:
    """The last convolution reads t0, which also goes to the output as it is."""
    return g.concat("t0", g.conv(4))


def residual_of_last_conv(g: Graph) -> str:
    g.conv(4)
    end = g.add("t0")
    return g.concat("t0", end)


def input_beside_conv(g: Graph) -> str:
    return g.concat("input", "t0")


@pytest.mark.parametrize(
    ("build", "passed"),
    [
        (read_by_conv, "t0"),
        (read_by_last_conv_beside_concat, "t0"),
        (residual_of_last_conv, "t0"),
        (input_beside_conv, "input"),
    ],
)
def test_an_output_that_is_also_read_is_refused(build: Callable[[Graph], str], passed: str) -> None:
    g = start()
    with pytest.raises(UnsupportedOperatorError, match=f"passes {passed} on") as caught:
        read(g, build(g))
    assert caught.value.where.startswith("output ")


def test_a_network_without_convolutions_is_refused() -> None:
    g = Graph(12)
    g.depth_to_space(2)
    with pytest.raises(UnsupportedOperatorError, match="passes input on"):
        read(g)
    model = Graph(3).model("input")
    with pytest.raises(UnsupportedOperatorError, match="passes input on"):
        fuse(model)


@pytest.mark.parametrize(
    ("weight", "bias", "group"),
    [
        ((4, 3, 3, 3), 4, 1),
        ((4, 2, 3, 3), 4, 1),
        ((3, 2, 3, 3), 3, 2),
        ((4, 4, 3, 3), 4, 0),
        ((4, 4, 3, 3), 1, 1),
        ((0, 4, 3, 3), 0, 1),
        ((4, 4, 0, 3), 4, 1),
    ],
)
def test_a_convolution_that_does_not_fit_its_input_is_refused(
    weight: tuple[int, ...], bias: int, group: int
) -> None:
    g = start()
    constants = [g.constant(np.ones(shape, np.float32)) for shape in (weight, bias)]
    g.node("Conv", g.last, *constants, group=group, channels=weight[0])
    with pytest.raises(ModelError, match="do not fit 4 input channels") as caught:
        read(g)
    assert caught.value.where == f"node {g.nodes[-1].name} (Conv)"


def test_a_window_of_another_size_than_the_weight_is_refused() -> None:
    g = start()
    g.conv(4, kernel_shape=(5, 5))
    with pytest.raises(ModelError, match=r"a window of \[5, 5\]"):
        read(g)


@pytest.mark.parametrize(("block", "mode"), [(3, "CRD"), (4, "DCR"), (2, "XYZ")])
def test_a_shuffle_that_does_not_fit_its_input_is_refused(block: int, mode: str) -> None:
    g = start()
    g.node("DepthToSpace", g.last, blocksize=block, mode=mode, channels=1)
    what = f"blocks of {block} in mode {mode} of 4 channels"
    with pytest.raises(ModelError, match=what) as caught:
        read(g)
    assert caught.value.where == f"node {g.nodes[-1].name} (DepthToSpace)"


def test_a_padding_that_does_not_exist_is_refused() -> None:
    g = start()
    g.conv(4, auto_pad="SAME")
    with pytest.raises(ModelError, match="auto_pad 'SAME' is not known"):
        read(g)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    """The last layer's would never be seen in calibration: its output is not quantized."""

    def conv_weight(g: Graph) -> None:
        g.conv(1, weight=np.full((1, 4, 3, 3), bad))

    def conv_bias(g: Graph) -> None:
        g.conv(1)
        g.nodes[-1].input.append(g.constant(np.array([bad], np.float32)))

    def slope(g: Graph) -> None:
        g.node("PRelu", g.last, g.constant(np.array([bad], np.float32)))

    for change in (conv_weight, conv_bias, slope):
        g = start()
        change(g)
        with pytest.raises(ModelError, match="infinite or not a number") as caught:
            read(g)
        assert g.nodes[-1].name in caught.value.where


def test_all_operators_that_are_not_defined_are_named_before_outputs_are_counted() -> None:
    g = Graph(3)
    first = g.conv(3)
    g.node("Sigmoid", name="gate")
    g.node("Tanh")
    g.node("Sigmoid")
    with pytest.raises(UnsupportedOperatorError) as caught:
        fuse(g.model(first, g.last))
    assert caught.value.where == "node gate (Sigmoid)"
    assert caught.value.what.endswith("the same is true of 2 more nodes: Sigmoid, Tanh")
