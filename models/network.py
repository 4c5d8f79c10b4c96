"""Bicubic++ in PyTorch (Bilecen and Ayazoglu, CVPR Workshops 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bicubic_plusplus import SLOPE, kernel_shapes


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

    def features(self, image: Tensor, noise: float = 0.0) -> Tensor:
        """The output before the pixel shuffle, [N, 3*(2*rate)^2, H/2, W/2].

        Args:
            image: float32 [N, 3, H, W] in [0, 1].
            noise: uniform noise of so many int8 steps on all that an int8 build rounds, the kernels
                (one step per output channel) and the inputs of the convolutions (one per tensor).
        """

        def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
            kernel = _noisy(layer.weight, noise, (1, 2, 3))
            return functional.conv2d(x, kernel, stride=layer.stride, padding=1)

        def act(x: Tensor) -> Tensor:
            return functional.leaky_relu(x, SLOPE)

        x0 = _noisy(act(conv(self.conv0, _noisy(image, noise))), noise)
        x1 = _noisy(act(conv(self.conv1, x0)), noise)
        x2 = _noisy(act(conv(self.conv2, x1)) + x0, noise)
        return conv(self.conv_out, x2)

    def forward(self, image: Tensor) -> Tensor:
        """The upscaled image, neither clipped nor rounded."""
        return functional.pixel_shuffle(self.features(image), 2 * self.rate)


def _noisy(x: Tensor, noise: float, dims: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    """Adds noise of the size of a symmetric int8 rounding; the gradient sees the range too."""
    if noise == 0:
        return x
    step = x.abs().amax(dims, keepdim=True) / 127
    return x + noise * step * (torch.rand_like(x) - 0.5)
