from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.errors import ModelError, StorageError
from compiler.runner import Session
from models.bicubic_plusplus import CENTRE, export_onnx, kernel_shapes, to_onnx

RATES = [2, 3, 4]


def state_of(rate: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in kernel_shapes(rate).items()
    }


def conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """[I, H, W] and [O, I, 3, 3] in float64: nine shifted products."""
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2)))
    result = np.zeros((len(kernel), height, width))
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + stride * height : stride, j : j + stride * width : stride]
            result += np.einsum("oi,ihw->ohw", kernel[:, :, i, j], shifted)
    return result


def forward(state: dict[str, np.ndarray], rate: int, image: np.ndarray) -> np.ndarray:
    """The network as the paper draws it, in float64; image [3, H, W]."""
    k0, k1, k2, k_out = (state[name].astype(np.float64) for name in kernel_shapes(rate))

    def act(x: np.ndarray) -> np.ndarray:
        return np.where(x >= 0, x, 0.1 * x)

    x0 = act(conv(image, k0, stride=2))
    x2 = act(conv(act(conv(x0, k1)), k2)) + x0
    y = conv(x2, k_out)
    block, (_, height, width) = 2 * rate, y.shape
    y = y.reshape(3, block, block, height, width).transpose(0, 3, 1, 4, 2)
    return y.reshape(3, height * block, width * block)


@pytest.mark.parametrize("rate", RATES)
def test_parameter_count(rate: int) -> None:
    count = sum(int(np.prod(shape)) for shape in kernel_shapes(rate).values())
    assert count == {2: 33120, 3: 50400, 4: 74592}[rate]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", [(8, 12), (2, 2)])
def test_onnx_computes_the_network(rate: int, size: tuple[int, int]) -> None:
    state = state_of(rate)
    image = np.random.default_rng(1).random((3, *size), dtype=np.float32)
    output = Session(to_onnx(state, rate)).run(image[None])
    assert output.shape == (1, 3, rate * size[0], rate * size[1])
    np.testing.assert_allclose(output[0], forward(state, rate, image), rtol=0, atol=1e-5)


def test_the_centred_network_works_on_bytes_about_zero() -> None:
    state, image = state_of(2), np.random.default_rng(1).random((3, 4, 6), dtype=np.float32)
    output = Session(to_onnx(state, 2, centred=True)).run(image[None])
    expected = forward(state, 2, image - CENTRE) + CENTRE
    np.testing.assert_allclose(output[0], expected, rtol=0, atol=1e-5)


def test_same_kernels_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "deep" / "b.onnx"
    export_onnx(state_of(3), 3, first, "text")
    export_onnx(dict(reversed(state_of(3).items())), 3, second, "text")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "deep"]


def test_graph_is_what_the_compiler_expects(tmp_path: Path) -> None:
    export_onnx(state_of(2), 2, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [node.name for node in graph.node] == [
        *("conv0", "act0", "conv1", "act1", "conv2", "act2", "add", "conv_out", "pixel_shuffle")
    ]
    dims = graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in dims] == [1, 3, "height", "width"]
    assert (graph.input[0].name, graph.output[0].name) == ("input", "output")


@pytest.mark.parametrize(
    ("name", "kernel", "message"),
    [
        ("conv1.weight", None, "expected the tensors"),
        ("conv1.bias", np.zeros(32, np.float32), "expected the tensors"),
        ("conv_out.weight", np.zeros((48, 32, 3, 3), np.float32), r"\[48, 32, 3, 3\]"),
        ("conv0.weight", np.zeros((32, 3, 3, 3)), "float64"),
        ("conv0.weight", np.full((32, 3, 3, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_refuses_other_kernels(
    tmp_path: Path, name: str, kernel: np.ndarray | None, message: str
) -> None:
    state = {k: v for k, v in state_of(3).items() if k != name}
    if kernel is not None:
        state[name] = kernel
    with pytest.raises(ModelError, match=message):
        export_onnx(state, 3, tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())


def test_refuses_a_folder_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        export_onnx(state_of(3), 3, tmp_path / "file" / "m.onnx")
