"""Bicubic++ (Bilecen and Ayazoglu, CVPR Workshops 2023) in PyTorch, to train it for int8."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bicubic_plusplus import CENTRE, SLOPE, kernel_shapes

_PEAKS = 3e-5  # of a tensor's values: the mean of so many largest ones ends its range


@dataclass(frozen=True)
class Rounding:
    """Simulated int8, by noise of the size of a rounding.

    The three tensors are the inputs of the convolutions but the first: the image is made of bytes
    and loses nothing, and neither does the residual, which a build holds in 16 bits. A step of a
    tensor is that of its own range, in the mean of symmetric and asymmetric int8, so that training
    makes ranges narrow, and fills both sides of zero.

    Attributes:
        noise: [3], uniform noise of so many steps on each tensor.
        kernel_noise: the same on the kernels, in steps of symmetric int8 per output channel.
        exact: the first so many images of a batch see no noise, so that the float network does not
            come to depend on it.
    """

    noise: tuple[float, ...]
    kernel_noise: float
    exact: int

    def tensor(self, x: Tensor, index: int) -> Tensor:
        """x with noise on all images but the exact ones."""
        exact, rounded = x[: self.exact], x[self.exact :]
        noise = self.noise[index] * _step(rounded) * (torch.rand_like(rounded) - 0.5)
        return torch.cat([exact, rounded + noise])

    def last_error(self, x: Tensor, kernel: Tensor) -> Tensor:
        """What the noise of the last tensor does to the output, without its randomness.

        It passes through one convolution only, so its expected square is known.

        Args:
            x: the last tensor, [N, I, h, w].
            kernel: of the convolution that reads it, [O, I, 3, 3].

        Returns:
            [1, O, 9*I, 1], values whose mean square in each channel, and in each weighted sum of
            channels, is the expected square of the error there.
        """
        taps = kernel.flatten(1)
        deviation = self.noise[-1] * _step(x[self.exact :]) / math.sqrt(12)
        return deviation * math.sqrt(taps.shape[1]) * taps[None, :, :, None]

    def kernel(self, weight: Tensor) -> Tensor:
        """Noise of a symmetric rounding per output channel; the gradient sees the range too."""
        step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        return weight + self.kernel_noise * step * (torch.rand_like(weight) - 0.5)


def _step(x: Tensor) -> Tensor:
    """The step of int8 for the range of x, the gradient seeing the range: [] of x's type."""
    values = x.flatten()
    count = max(1, int(_PEAKS * len(values)))
    high, low = values.topk(count)[0].mean(), (-values).topk(count)[0].mean()
    asymmetric, symmetric = high + low, 2 * torch.maximum(high, low)
    return ((asymmetric.square() + symmetric.square()) / 2).sqrt() / 255


class BicubicPlusPlus(nn.Module):  # type: ignore[misc]  # torch is an optional extra, so untyped
    """Upscales `rate` times: float32 [N, 3, H, W] in [0, 1] -> [N, 3, rate*H, rate*W], H, W even.

    The state dict has the keys of `kernel_shapes(rate)`; there are no biases.
    """

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.rate = rate
        for name, (outputs, inputs, *_) in kernel_shapes(rate).items():
            stride = 2 if name == "conv0.weight" else 1
            conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.add_module(name.removesuffix(".weight"), conv)

    def features(self, image: Tensor, rounding: Rounding | None = None) -> tuple[Tensor, Tensor]:
        """The output before the pixel shuffle, [N, 3*(2*rate)^2, H/2, W/2], and what it is made of.

        Args:
            image: float32 [N, 3, H, W] in [0, 1].
            rounding: what an int8 build does to it, but to the last tensor.

        Returns:
            The output, and the input of the last convolution, [N, 32, H/2, W/2].
        """

        def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
            kernel = rounding.kernel(layer.weight) if rounding else layer.weight
            return functional.conv2d(x, kernel, stride=layer.stride, padding=1)

        def act(x: Tensor) -> Tensor:
            return functional.leaky_relu(x, SLOPE)

        def rounded(x: Tensor, index: int) -> Tensor:
            return rounding.tensor(x, index) if rounding else x

        x0 = act(conv(self.conv0, image - CENTRE))
        x1 = act(conv(self.conv1, rounded(x0, 0)))
        x2 = act(conv(self.conv2, rounded(x1, 1))) + x0
        return conv(self.conv_out, x2) + CENTRE, x2

    def forward(self, image: Tensor) -> Tensor:
        """The upscaled image, neither clipped nor rounded."""
        return functional.pixel_shuffle(self.features(image)[0], 2 * self.rate)
