import numpy as np
import pytest

from compiler.runner import Session
from models.bicubic_plusplus import kernel_shapes, to_onnx

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from models.network import BicubicPlusPlus, Rounding  # noqa: E402


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_computes_what_the_onnx_graph_computes(rate: int) -> None:
    torch.manual_seed(rate)
    network = BicubicPlusPlus(rate)
    state = {name: kernel.numpy() for name, kernel in network.state_dict().items()}
    assert {name: kernel.shape for name, kernel in state.items()} == kernel_shapes(rate)
    image = np.random.default_rng(1).random((1, 3, 10, 6), dtype=np.float32)
    output = network(torch.from_numpy(image)).detach().numpy()
    np.testing.assert_allclose(
        output, Session(to_onnx(state, rate, centred=True)).run(image), rtol=0, atol=1e-5
    )


def rounding(noise: float, kernel_noise: float, threshold: float, exact: int = 0) -> Rounding:
    return Rounding(noise, kernel_noise, torch.full((3,), threshold), exact)


def test_noise_is_as_large_as_a_rounding() -> None:
    """Uniform within half a step of the threshold, or of each output channel of a kernel."""
    torch.manual_seed(0)
    x = torch.randn(4, 8, 30, 30).clamp(-2, 2)
    error = (rounding(1.0, 0, 2.0).tensor(x, 0) - x) * 127 / 2
    assert float(error.abs().max()) <= 0.5 + 1e-4
    assert float(error.std()) == pytest.approx(12**-0.5, rel=0.02)
    assert float(error.mean()) == pytest.approx(0, abs=0.01)
    kernel = torch.randn(5, 8, 3, 3) * torch.logspace(-3, 3, 5).view(5, 1, 1, 1)
    steps = kernel.abs().amax((1, 2, 3)) / 127
    error = (rounding(0, 2.0, 1.0).kernel(kernel) - kernel).abs().amax((1, 2, 3)) / steps
    assert torch.all((error > 0.8) & (error < 1.01))


def test_tensors_are_clipped_but_for_the_exact_images() -> None:
    x = torch.tensor([-3.0, -0.5, 0.25, 2.0]).repeat(3, 1, 1, 1)
    clipped = rounding(0, 0, 0.5, exact=1).tensor(x, 1)
    assert torch.equal(clipped[:1], x[:1])
    assert torch.equal(clipped[1:], x[1:].clamp(-0.5, 0.5))


def test_thresholds_learn_from_clipping_and_from_noise() -> None:
    thresholds = torch.full((3,), 0.5, requires_grad=True)
    Rounding(0, 0, thresholds, 0).tensor(torch.ones(1, 1, 2, 2), 2).sum().backward()
    assert thresholds.grad.tolist() == [0, 0, 4]


def test_without_rounding_nothing_is_random() -> None:
    network, image = BicubicPlusPlus(2), torch.rand(1, 3, 8, 8)
    clean = network.features(image)
    assert torch.equal(clean, network.features(image))
    assert torch.allclose(clean, network.features(image, rounding(0, 0, 1e9)))
    assert not torch.equal(clean, network.features(image, rounding(1.0, 0, 1.0)))
