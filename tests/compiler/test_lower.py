"""The compiled library against the golden model: every operator, shape and instruction set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from calib.qparams import QParams
from compiler import reference
from compiler.errors import UnsupportedOperatorError
from compiler.host import FEATURES, Host, cpu_features
from compiler.library import build_library, load_library
from compiler.lower import chains, lower
from compiler.network import (
    Activation,
    Concat,
    DepthToSpace,
    Kind,
    MaxPool,
    Network,
    Op,
    QuantizeInput,
    Residual,
    ResizeNearest,
    Tensor,
)
from compiler.rules import LOWERING
from tests.networks import LEAKY, RELU, Builder, bicubic_plusplus, espcn, sixteen_bits

ISAS = [isa for isa, features in FEATURES.items() if features <= cpu_features()]
SLOW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def random_input(net: Network, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Full-range data: values beyond the int8 range, its ends, and special floats."""
    rng = np.random.default_rng(seed)
    channels = net.input_tensor.channels
    if net.input_tensor.kind == "uint8":
        return rng.integers(0, 256, (1, height, width, channels)).astype(np.uint8)
    x = rng.uniform(-3, 3, (1, channels, height, width)).astype(np.float32)
    specials = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0], np.float32)
    where = rng.random(x.shape) < 0.02
    x[where] = rng.choice(specials, int(where.sum()))
    return x


def check(net: Network, height: int, width: int, isa: str, threads: int = 2) -> None:
    host = Host(isa, threads)
    x = random_input(net, height, width)
    expected = reference.run(net, x)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mod.so"
        build_library(net, (height, width), host, path)
        y = load_library(path, host)(x)
    assert y.dtype == expected.dtype
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y, expected)


def test_every_operator_has_a_golden_function_and_a_lowering_rule() -> None:
    assert set(LOWERING) == set(reference.GOLDEN)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [(36, 50), (2, 2), (7, 129)])
def test_bicubic_plusplus(isa: str, size: tuple[int, int]) -> None:
    size = (size[0] * 2, size[1] * 2)
    check(bicubic_plusplus(3), *size, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize(("output", "kind"), [("float32", "uint8"), ("uint8", "float32")])
def test_ends_of_the_network(isa: str, asymmetric: bool, output: str, kind: str) -> None:
    net = bicubic_plusplus(2, asymmetric=asymmetric, output=output, input_kind=kind)
    check(net, 34, 46, isa, threads=3)


@pytest.mark.parametrize("isa", ISAS)
def test_one_pixel_and_one_thread(isa: str) -> None:
    check(espcn(), 1, 1, isa, threads=1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_pixel_shuffle_inside_the_network(isa: str, mode: str) -> None:
    b = Builder(3, 4, asymmetric=True)
    first = b.conv(24, steps=(RELU,))
    side = b.conv(12, 1)
    b.last = first
    b.conv(24, steps=(Residual(first),))
    shuffled = b.depth_to_space(2, mode)  # fused behind its conv
    b.conv(12, 3, source=shuffled, strides=(2, 2), steps=(Residual(side), LEAKY))
    shared = b.last
    b.depth_to_space(2, mode)  # its input has two consumers
    b.conv(12, 3, strides=(2, 2), steps=(Residual(shared),))
    b.depth_to_space(2, mode)
    check(b.network("uint8"), 9, 11, isa)
    check(b.network("float32"), 9, 11, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("asymmetric", [False, True])
def test_low_parts_are_made_of_the_same_products(isa: str, asymmetric: bool) -> None:
    """In one chain by one kernel, in chains of their own by two; bit for bit in both."""
    net = sixteen_bits(asymmetric=asymmetric)
    size, host = (18, 22), Host(isa, 1)
    (chain,) = chains(net, size, host)
    names = ["quantize", "conv1", "conv3", "conv4", "conv5"]
    assert [k.stage.name for k in chain.kernels] == names
    assert "also its low part" in chain.kernels[1].choice
    alone = [k.stage.name for c in chains(net, size, host, fuse=False) for k in c.kernels]
    assert alone == ["quantize", "conv1", "conv2", *names[2:]]
    check(net, *size, isa, threads=3)
    check(net, 2, 2, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_a_low_part_that_a_convolution_reads_has_a_border(isa: str) -> None:
    net = sixteen_bits(asymmetric=True, read=True)
    names = [k.stage.name for c in chains(net, (18, 22), Host(isa, 1)) for k in c.kernels]
    assert "conv2" not in names
    check(net, 18, 22, isa, threads=2)


@pytest.mark.parametrize("isa", ISAS)
def test_a_low_part_of_what_nothing_else_reads_stays_alone(isa: str) -> None:
    net = sixteen_bits()
    last = net.convs[-1]
    net = replace(net, ops=(*net.ops[:-1], replace(last, input="t2")))
    names = [k.stage.name for c in chains(net, (18, 22), Host(isa, 1)) for k in c.kernels]
    assert names == ["quantize", "conv1", "conv2", last.name]
    check(net, 18, 22, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [5, 40])
def test_moves(isa: str, channels: int) -> None:
    b = Builder(3, 5)
    q = QParams(0.01, 3)
    left = b.conv(channels)
    right = b.conv(7, source=left)
    for name in (left, right):
        b.tensors[name] = replace(b.tensors[name], qparams=q)
    b.add(Concat("join", (left, right, left), "joined"), 2 * channels + 7, q)
    pool = MaxPool("pool", "joined", "pooled", (3, 3), (2, 2), (1, 1, 1, 1))
    b.add(pool, 2 * channels + 7, q)
    b.add(ResizeNearest("resize", "pooled", "resized", (3, 2)), 2 * channels + 7, q)
    b.conv(6, 3)
    check(b.network(), 13, 10, isa)


@pytest.mark.parametrize("isa", ISAS)
@SLOW
@given(data=st.data())
def test_any_convolution(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    fan, fan_out = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilations = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    pads = tuple(draw(st.integers(0, 4)) for _ in range(4))
    reach = [(kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[i + 2] for i in (0, 1)]
    height, width = (draw(st.integers(max(1, r), max(1, r) + 20)) for r in reach)
    alpha = np.array(draw(st.sampled_from([[0.1], [0.0], [1.5], [-0.5]])), np.float32)
    kinds = draw(
        st.sampled_from([("float32", "float32"), ("uint8", "float32"), ("float32", "uint8")])
    )
    b = Builder(fan * groups, draw(st.integers(0, 99)), asymmetric=draw(st.booleans()))
    options = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    side = b.conv(fan_out * groups, kernel, source="x", **options)
    prelu = Activation(b.rng.uniform(-1, 2, fan_out * groups).astype(np.float32))
    steps = draw(st.permutations([Activation(alpha), Residual(side), prelu]))
    count = draw(st.integers(0, 3))
    b.conv(fan_out * groups, kernel, source="x", steps=tuple(steps[:count]), **options)
    if not any(isinstance(s, Residual) for s in steps[:count]):
        b.conv(3, 1, steps=(Residual(b.conv(3, 1, source=side)),))
    check(b.network(*kinds), height, width, isa, threads=draw(st.integers(1, 3)))


def test_worst_case_accumulators() -> None:
    """All weights at an end of their range, all inputs at an end of theirs."""
    for isa in ISAS:
        b = Builder(64, 6)
        weight = np.full((32, 64, 3, 3), 127, np.int8)
        weight[::2] = -127
        b.conv(32, weight=weight, bias=np.full(32, 2**30, np.int32))
        b.conv(8, weight=np.full((8, 32, 3, 3), -127, np.int8), bias=np.full(8, -(2**30), np.int32))
        check(b.network(), 12, 20, isa)


def behind(net: Network, *ops: Op, channels: tuple[int, ...]) -> Network:
    """`net` with operators behind its output that move its answer."""
    tensors = dict(net.tensors)
    for op, count in zip(ops, channels, strict=True):
        tensors[op.output] = Tensor(count, net.output_tensor.kind)
    return replace(net, ops=(*net.ops, *ops), tensors=tensors, output=ops[-1].output)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_moves_behind_the_last_convolutions(isa: str, kind: Kind) -> None:
    b = Builder(3, 7)
    heads = [b.conv(8, 3, source="x"), b.conv(12, 1, source="x")]
    for name in heads:
        b.tensors[name] = Tensor(b.tensors[name].channels, kind)
    net = replace(b.network(kind), output=heads[-1])
    net = behind(
        net,
        Concat("join", (heads[0], heads[1], heads[0]), "joined"),
        MaxPool("pool", "joined", "pooled", (3, 2), (2, 1), (1, 0, 1, 1)),
        DepthToSpace("shuffle", "pooled", "shuffled", 2, "DCR"),
        ResizeNearest("resize", "shuffled", "resized", (2, 3)),
        channels=(28, 28, 7, 7),
    )
    check(net, 9, 13, isa, threads=3)


def test_a_shuffle_behind_another_and_of_two_readers() -> None:
    b = Builder(3, 8)
    b.conv(32)
    b.depth_to_space(2)
    net = b.network()
    check(behind(net, DepthToSpace("s", net.output, "s", 2), channels=(2,)), 5, 9, ISAS[-1])


def test_a_move_that_would_convert_is_refused() -> None:
    b = Builder(3, 7)
    b.conv(4)
    resize = ResizeNearest("resize", "x", "big", (2, 2))
    with pytest.raises(UnsupportedOperatorError, match="float32 data from int8"):
        lower(behind(b.network(), resize, channels=(3,)), (8, 8), Host("portable", 1))


def test_the_same_network_gives_the_same_library(tmp_path: Path) -> None:
    net = bicubic_plusplus(2)
    for name in ("a.so", "b.so"):
        build_library(net, (16, 16), Host("portable", 2), tmp_path / name)
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()


def test_first_operator_is_the_quantizer() -> None:
    assert isinstance(bicubic_plusplus(2).ops[0], QuantizeInput)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 2, 3])
def test_bytes_of_an_image_narrower_than_four_pixels(isa: str, width: int) -> None:
    """More bytes are picked than the vector of so few pixels has lanes."""
    b = Builder(3, seed=1)
    b.conv(24, kernel=(1, 1))
    b.depth_to_space(2)
    check(b.network("uint8"), 3, width, isa, threads=1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_the_input_may_begin_anywhere(isa: str, kind: Kind, tmp_path: Path) -> None:
    """Also where no element may, and where nothing may be written: then a copy is used."""
    net = bicubic_plusplus(2, output=kind, input_kind=kind)
    host, path = Host(isa, 2), tmp_path / "mod.so"
    x = random_input(net, 12, 34)
    expected = reference.run(net, x)
    build_library(net, (12, 34), host, path)
    library = load_library(path, host)
    for offset in (1, 4, 20, 32, 64):
        raw = np.zeros(x.nbytes + offset, np.uint8)
        moved = raw[offset:].view(x.dtype).reshape(x.shape)
        moved[...] = x
        moved.flags.writeable = offset != 32
        np.testing.assert_array_equal(library(moved), expected)
    np.testing.assert_array_equal(library(np.asfortranarray(x)), expected)
