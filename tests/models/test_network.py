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


def rounding(
    noise: float, kernel_noise: float, low: float, high: float, exact: int = 0
) -> Rounding:
    ends = (torch.full((3,), end) for end in (low, high))
    return Rounding((noise,) * 3, kernel_noise, *ends, exact)


def test_noise_is_as_large_as_a_rounding() -> None:
    """Uniform within half a step of the range, or of each output channel of a kernel."""
    torch.manual_seed(0)
    x = torch.randn(4, 8, 30, 30).clamp(-1, 3)
    error = (rounding(1.0, 0, -1.0, 3.0).tensor(x, 0) - x) * 255 / 4
    assert float(error.abs().max()) <= 0.5 + 1e-4
    assert float(error.std()) == pytest.approx(12**-0.5, rel=0.02)
    assert float(error.mean()) == pytest.approx(0, abs=0.01)
    kernel = torch.randn(5, 8, 3, 3) * torch.logspace(-3, 3, 5).view(5, 1, 1, 1)
    steps = kernel.abs().amax((1, 2, 3)) / 127
    error = (rounding(0, 2.0, -1.0, 1.0).kernel(kernel) - kernel).abs().amax((1, 2, 3)) / steps
    assert torch.all((error > 0.8) & (error < 1.01))


def test_tensors_are_clipped_but_for_the_exact_images() -> None:
    x = torch.tensor([-3.0, -0.5, 0.25, 2.0]).repeat(3, 1, 1, 1)
    clipped = rounding(0, 0, -0.25, 0.5, exact=1).tensor(x, 1)
    assert torch.equal(clipped[:1], x[:1])
    assert torch.equal(clipped[1:], x[1:].clamp(-0.25, 0.5))


def test_the_range_learns_from_clipping_and_from_noise() -> None:
    low, high = (torch.full((3,), end, requires_grad=True) for end in (-0.5, 0.5))
    simulated = Rounding((0, 0, 3), 0, low, high, 0)
    simulated.tensor(torch.tensor([-1.0, 1, 1, 1]).view(1, 1, 2, 2), 2).sum().backward()
    assert (low.grad.tolist(), high.grad.tolist()) == ([0, 0, 1], [0, 0, 3])
    simulated.output_error(torch.ones(1, 2, 3, 3)).sum().backward()
    assert high.grad[2] > 3  # a wider range, more noise
    assert low.grad[2] < 1


def test_noise_of_the_last_tensor_reaches_the_output_as_predicted() -> None:
    """Against samples of it, for every channel and for a sum of channels."""
    torch.manual_seed(0)
    kernel, simulated = torch.randn(6, 4, 3, 3), rounding(2.0, 0, -0.2, 0.8)
    noise = 2 / 255 * (torch.rand(1, 4, 200, 200) - 0.5)
    sampled = torch.nn.functional.conv2d(noise, kernel)
    predicted = simulated.output_error(kernel)
    for mix in (torch.eye(6), torch.tensor([[0.3, -1.0, 0.2, 0.0, 2.0, 0.5]])):
        expected, found = (
            torch.einsum("oc,nchw->nohw", mix, e).square().mean((0, 2, 3))
            for e in (predicted, sampled)
        )
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0)


def test_without_rounding_nothing_is_random() -> None:
    network, image = BicubicPlusPlus(2), torch.rand(1, 3, 8, 8)
    clean = network.features(image)
    assert torch.equal(clean, network.features(image))
    assert torch.allclose(clean, network.features(image, rounding(0, 0, -1e9, 1e9)))
    assert not torch.equal(clean, network.features(image, rounding(1.0, 0, -1.0, 1.0)))
