"""From an image to a network's input and back: padding, colours, and the two protocols.

All competitors of a comparison (fp32, int8, golden, bicubic) go through this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calib import bicubic
from calib.images import CenterCrop, Pad, ProcessOp, Resize, apply_ops
from calib.qparams import F32
from compiler.errors import UnsupportedOperatorError
from compiler.network import Layered, Size, sizes

Rgb = NDArray[np.uint8]  # [H, W, C]
Image = NDArray[np.generic]  # [H, W, C] on the scale of [0, 255]
Net = Callable[[F32], F32]  # float32 [1, C, H, W] -> float32 [1, C, H', W']
_LARGEST_GRID = 64


@dataclass(frozen=True)
class Scaling:
    """How a network changes sizes: output = rate x input for inputs that are multiples of grid."""

    rate: int
    grid: int


def scaling(net: Layered) -> Scaling:
    """The rate and the grid of a super-resolution network, from its operators.

    Raises:
        UnsupportedOperatorError: the output is not a whole multiple of the input.
    """
    probe = 16 * _LARGEST_GRID
    ends = [sizes(net, (probe, probe))[op.output] for op in net.ops[-1:]]
    rate, rest = divmod(ends[0][0], probe)
    if rest or rate < 1 or ends[0][0] != ends[0][1]:
        raise UnsupportedOperatorError(
            f"an input of {probe}x{probe} gives {ends[0][0]}x{ends[0][1]}, no whole multiple",
            where=f"output {net.ops[-1].output}",
            fix="build a network whose output is rate times its input",
        )
    grid = 1
    while grid < _LARGEST_GRID and not _keeps_rate(net, rate, (17 * grid, 19 * grid)):
        grid *= 2
    return Scaling(rate, grid)


def _keeps_rate(net: Layered, rate: int, size: Size) -> bool:
    return sizes(net, size)[net.ops[-1].output] == (rate * size[0], rate * size[1])


def padded_size(scaling: Scaling, size: Size) -> Size:
    """`size` rounded up to the grid: what the network runs at."""
    height, width = (-(-side // scaling.grid) * scaling.grid for side in size)
    return height, width


def colour_ops(ops: Sequence[ProcessOp]) -> tuple[ProcessOp, ...]:
    """The pre-processing without what changes sizes: images are taken at their native size."""
    return tuple(op for op in ops if not isinstance(op, Resize | CenterCrop | Pad))


def to_input(ops: Sequence[ProcessOp], image: Rgb, scaling: Scaling) -> F32:
    """float32 [1, C, H', W'], padded to the grid."""
    return pad_tensor(apply_ops(colour_ops(ops), image)[None], scaling)


def pad_tensor(x: F32, scaling: Scaling) -> F32:
    """[1, C, H', W'], padded to the grid by replicating the last row and column."""
    height, width = padded_size(scaling, (x.shape[2], x.shape[3]))
    rows, cols = height - x.shape[2], width - x.shape[3]
    return np.pad(x, ((0, 0), (0, 0), (0, rows), (0, cols)), mode="edge") if rows or cols else x


def pad_frame(frame: Rgb, scaling: Scaling) -> Rgb:
    """uint8 [H', W', C], padded to the grid by replicating the last row and column."""
    height, width = padded_size(scaling, (frame.shape[0], frame.shape[1]))
    rows, cols = height - frame.shape[0], width - frame.shape[1]
    return np.pad(frame, ((0, rows), (0, cols), (0, 0)), mode="edge")


def from_output(y: F32, size: Size) -> F32:
    """[H, W, C] = 255 y, not rounded, cropped to `size`."""
    result: F32 = y[0, :, : size[0], : size[1]].transpose(1, 2, 0) * np.float32(255)
    return result


def to_uint8(image: F32) -> Rgb:
    """rne(clip(v, 0, 255))."""
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def upscale(net: Net, ops: Sequence[ProcessOp], lr: Rgb, scaling: Scaling) -> Rgb:
    """Protocol `standard`: uint8 [H r, W r, C] for an image of any size [H, W, 3]."""
    y = net(to_input(ops, lr, scaling))
    return to_uint8(from_output(y, (lr.shape[0] * scaling.rate, lr.shape[1] * scaling.rate)))


def reference(ops: Sequence[ProcessOp], hr: Rgb) -> Rgb:
    """The ground truth in the colours that the network works in, uint8 [H, W, C]."""
    return to_uint8(apply_ops(colour_ops(ops), hr).transpose(1, 2, 0) * np.float32(255))


def bicubic_upscale(ops: Sequence[ProcessOp], lr: Rgb, rate: int) -> Rgb:
    """MATLAB-style bicubic of the same input, in the network's colours."""
    return bicubic.upscale(reference(ops, lr), rate)


def stretch(image: Rgb, size: Size) -> Rgb:
    """cv2's bilinear resize to `size`; the aspect is not kept."""
    return np.asarray(cv2.resize(image, (size[1], size[0])), np.uint8)


def vendor_input(ops: Sequence[ProcessOp], lr: Rgb, size: Size) -> F32:
    """Protocol `vendor`: LR stretched to `size` by cv2, float32 [1, C, H, W]."""
    return apply_ops(colour_ops(ops), stretch(lr, size))[None]


def vendor_output(y: F32) -> F32:
    """[H, W, C] = clip(255 y, 0, 255), not rounded."""
    clipped: F32 = np.clip(y[0].transpose(1, 2, 0) * np.float32(255), 0, 255)
    return clipped


def vendor_reference(ops: Sequence[ProcessOp], hr: Rgb, size: Size) -> Rgb:
    """The ground truth resized to the output by cv2, uint8 [H, W, C]."""
    return reference(ops, stretch(hr, size))
