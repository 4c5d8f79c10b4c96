"""Bicubic++ in PyTorch (Bilecen and Ayazoglu, CVPR Workshops 2023)."""

from __future__ import annotations

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

    def features(self, image: Tensor) -> Tensor:
        """The output before the pixel shuffle, [N, 3*(2*rate)^2, H/2, W/2]."""
        x0 = functional.leaky_relu(self.conv0(image), SLOPE)
        x1 = functional.leaky_relu(self.conv1(x0), SLOPE)
        x2 = functional.leaky_relu(self.conv2(x1), SLOPE) + x0
        return self.conv_out(x2)

    def forward(self, image: Tensor) -> Tensor:
        """The upscaled image, neither clipped nor rounded."""
        return functional.pixel_shuffle(self.features(image), 2 * self.rate)
