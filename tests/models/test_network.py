import numpy as np
import pytest

from compiler.runner import Session
from models.bicubic_plusplus import kernel_shapes, to_onnx

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from models.network import BicubicPlusPlus, _noisy  # noqa: E402


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_computes_what_the_onnx_graph_computes(rate: int) -> None:
    torch.manual_seed(rate)
    network = BicubicPlusPlus(rate)
    state = {name: kernel.numpy() for name, kernel in network.state_dict().items()}
    assert {name: kernel.shape for name, kernel in state.items()} == kernel_shapes(rate)
    image = np.random.default_rng(1).random((1, 3, 10, 6), dtype=np.float32)
    output = network(torch.from_numpy(image)).detach().numpy()
    np.testing.assert_allclose(output, Session(to_onnx(state, rate)).run(image), rtol=0, atol=1e-5)


def test_noise_is_as_large_as_a_rounding() -> None:
    """Uniform within half a step of the tensor, or of each output channel of a kernel."""
    torch.manual_seed(0)
    x = torch.randn(4, 8, 30, 30)
    error = (_noisy(x, 1.0) - x) * 127 / x.abs().max()
    assert float(error.abs().max()) <= 0.5 + 1e-4
    assert float(error.std()) == pytest.approx(12**-0.5, rel=0.02)
    assert float(error.mean()) == pytest.approx(0, abs=0.01)
    kernel = torch.randn(5, 8, 3, 3) * torch.logspace(-3, 3, 5).view(5, 1, 1, 1)
    steps = kernel.abs().amax((1, 2, 3)) / 127
    error = (_noisy(kernel, 2.0, (1, 2, 3)) - kernel).abs().amax((1, 2, 3)) / steps
    assert torch.all((error > 0.8) & (error < 1.01))


def test_without_noise_nothing_is_random() -> None:
    network, image = BicubicPlusPlus(2), torch.rand(1, 3, 8, 8)
    clean = network.features(image)
    assert torch.equal(clean, network.features(image, 0.0))
    assert not torch.equal(clean, network.features(image, 1.0))
