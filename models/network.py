"""Bicubic++ (Bilecen and Ayazoglu, CVPR Workshops 2023) in PyTorch, to train it for int8."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bicubic_plusplus import CENTRE, SLOPE, kernel_shapes

_LAST = 2  # only conv_out sees this tensor, so what noise on it does to the output is known


@dataclass(frozen=True, eq=False)
class Rounding:
    """Simulated int8, by clipping and noise of the size of a rounding.

    The three tensors are the inputs of the convolutions but the first: the image is made of bytes
    and loses nothing. A step of a tensor is 1/255 of its range, as in asymmetric int8; that of
    symmetric int8 is twice as large where low is near 0.

    Attributes:
        noise: [3], uniform noise of so many steps on each tensor.
        kernel_noise: the same on the kernels, in steps of symmetric int8 per output channel.
        low: [3], negative, what each tensor is clipped to from below.
        high: [3], positive, what it is clipped to from above.
        exact: the first so many images of a batch see neither noise nor clipping, so that the
            float network does not come to depend on them.
    """

    noise: tuple[float, ...]
    kernel_noise: float
    low: Tensor
    high: Tensor
    exact: int

    def tensor(self, x: Tensor, index: int) -> Tensor:
        """Clips and adds noise, except to the last one, whose noise is `output_error`."""
        rounded = torch.minimum(torch.maximum(x[self.exact :], self.low[index]), self.high[index])
        if index != _LAST:
            rounded = rounded + self._width(index) * (torch.rand_like(rounded) - 0.5)
        return torch.cat([x[: self.exact], rounded])

    def output_error(self, kernel: Tensor) -> Tensor:
        """What the noise of the last tensor does to the output, without its randomness.

        Args:
            kernel: of the last convolution, [O, I, 3, 3].

        Returns:
            [1, O, 9*I, 1], values whose mean square in each channel, and in each weighted sum of
            channels, is the expected square of the error there.
        """
        taps = kernel.flatten(1)
        deviation = self._width(_LAST) / math.sqrt(12)
        return deviation * math.sqrt(taps.shape[1]) * taps[None, :, :, None]

    def _width(self, index: int) -> Tensor:
        return self.noise[index] * (self.high[index] - self.low[index]) / 255

    def kernel(self, weight: Tensor) -> Tensor:
        """Noise of a symmetric rounding per output channel; the gradient sees the range too."""
        step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        return weight + self.kernel_noise * step * (torch.rand_like(weight) - 0.5)


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

    def features(self, image: Tensor, rounding: Rounding | None = None) -> Tensor:
        """The output before the pixel shuffle, [N, 3*(2*rate)^2, H/2, W/2].

        Args:
            image: float32 [N, 3, H, W] in [0, 1].
            rounding: what an int8 build does to it.
        """

        def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
            kernel = rounding.kernel(layer.weight) if rounding else layer.weight
            return functional.conv2d(x, kernel, stride=layer.stride, padding=1)

        def act(x: Tensor) -> Tensor:
            return functional.leaky_relu(x, SLOPE)

        def rounded(x: Tensor, index: int) -> Tensor:
            return rounding.tensor(x, index) if rounding else x

        x0 = rounded(act(conv(self.conv0, image - CENTRE)), 0)
        x1 = rounded(act(conv(self.conv1, x0)), 1)
        x2 = rounded(act(conv(self.conv2, x1)) + x0, 2)
        return conv(self.conv_out, x2) + CENTRE

    def forward(self, image: Tensor) -> Tensor:
        """The upscaled image, neither clipped nor rounded."""
        return functional.pixel_shuffle(self.features(image), 2 * self.rate)
