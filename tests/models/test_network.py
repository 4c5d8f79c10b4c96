import math

import numpy as np
import pytest

from compiler.runner import Session
from models.bicubic_plusplus import kernel_shapes, to_onnx

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from torch import Tensor  # noqa: E402

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


def rounding(noise: float, kernel_noise: float, exact: int = 0) -> Rounding:
    return Rounding((noise,) * 3, kernel_noise, exact)


def spread(low: float, high: float) -> Tensor:
    """[1, 8, 100, 100] of a range that both ends are reached in often enough."""
    return torch.linspace(low, high, 80_000).view(1, 8, 100, 100)


def test_noise_is_as_large_as_a_rounding() -> None:
    """Uniform within half a step of the range, or of each output channel of a kernel."""
    torch.manual_seed(0)
    x = spread(-1, 3)
    step = math.sqrt((4**2 + 6**2) / 2) / 255  # of asymmetric and symmetric int8, root mean square
    error = (rounding(1.0, 0).tensor(x, 0) - x) / step
    assert float(error.abs().max()) == pytest.approx(0.5, rel=1e-3)
    assert float(error.std()) == pytest.approx(12**-0.5, rel=0.02)
    assert float(error.mean()) == pytest.approx(0, abs=0.01)
    kernel = torch.randn(5, 8, 3, 3) * torch.logspace(-3, 3, 5).view(5, 1, 1, 1)
    steps = kernel.abs().amax((1, 2, 3)) / 127
    error = (rounding(0, 2.0).kernel(kernel) - kernel).abs().amax((1, 2, 3)) / steps
    assert torch.all((error > 0.8) & (error < 1.01))


def test_exact_images_see_no_noise_and_do_not_widen_that_of_others() -> None:
    x = torch.cat([100 * spread(-1, 1), spread(-1, 1)])
    noisy = rounding(1.0, 0, exact=1).tensor(x, 1)
    assert torch.equal(noisy[:1], x[:1])
    assert 0.4 < float((noisy - x)[1:].abs().max()) * 255 / 2 < 0.51


def test_the_ends_of_the_range_learn_from_the_noise() -> None:
    """Less noise by smaller peaks: the gradient points there, and nowhere else."""
    x = spread(-1, 3).clone().requires_grad_()
    rounding(1.0, 0).last_error(x, torch.ones(1, 2, 3, 3)).sum().backward()
    flat = x.grad.flatten()
    assert float(flat[-2:].min()) > 0 > float(flat[:2].max())
    assert int((flat != 0).sum()) == 4  # 3e-5 of 80,000 values at each end


def test_noise_of_the_last_tensor_reaches_the_output_as_predicted() -> None:
    """Against samples of it, for every channel and for a sum of channels."""
    torch.manual_seed(0)
    kernel, x = torch.randn(6, 8, 3, 3), spread(-1, 1)
    noise = 2 * 2 / 255 * (torch.rand(1, 8, 200, 200) - 0.5)
    sampled = torch.nn.functional.conv2d(noise, kernel)
    predicted = rounding(2.0, 0).last_error(x, kernel)
    for mix in (torch.eye(6), torch.tensor([[0.3, -1.0, 0.2, 0.0, 2.0, 0.5]])):
        expected, found = (
            torch.einsum("oc,nchw->nohw", mix, e).square().mean((0, 2, 3))
            for e in (predicted, sampled)
        )
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0)


def test_without_rounding_nothing_is_random() -> None:
    network, image = BicubicPlusPlus(2), torch.rand(1, 3, 8, 8)
    clean, last = network.features(image)
    assert torch.equal(clean, network.features(image)[0])
    assert last.shape == (1, 32, 4, 4)
    assert torch.equal(clean, network.features(image, rounding(0, 0))[0])
    assert not torch.equal(clean, network.features(image, rounding(1.0, 0))[0])
