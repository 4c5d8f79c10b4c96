"""MATLAB's bicubic `imresize`, bit for bit: the resampling that super-resolution is measured with.

The kernel is Keys' cubic convolution with a = -1/2 (R. G. Keys, "Cubic convolution interpolation
for digital image processing", IEEE Trans. ASSP 29(6), 1981). MATLAB stretches it by 1/scale when it
shrinks an axis (antialiasing), normalizes the weights of every output sample to sum 1, mirrors the
image at its border (the edge sample is repeated), resamples one axis after the other, the one with
the smaller scale first and rows first where they are equal, and rounds to uint8 in between.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from calib.errors import ImageError

# Output rows per matrix product: wide enough for BLAS, narrow enough that the band stays dense.
_BLOCK = 16

# Exact halves round up, whatever the order in which BLAS sums: far above the rounding noise of a
# binary64 sum (1e-13), far below the distance of any other sum of these weights from a half.
_TIE = 1e-9


def imresize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes like MATLAB's `imresize(image, [height width], "bicubic")`.

    Args:
        image: uint8 [H, W, C], any channel order.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.

    Returns:
        uint8 [height, width, C]; after each axis sums are clipped to 0..255 and rounded, halves up.

    Raises:
        ImageError: `image` is not uint8 [H, W, C], is empty, or a size is not positive.
    """
    _require_image(image)
    if height < 1 or width < 1:
        raise ImageError(
            f"cannot resize an image to {height} rows and {width} columns",
            fix="ask for at least one row and one column",
        )
    rows_first = height * image.shape[1] <= width * image.shape[0]
    if rows_first:
        return _transpose(_resize_rows(_transpose(_resize_rows(image, height)), width))
    return _resize_rows(_transpose(_resize_rows(_transpose(image), width)), height)


def downscale(image: NDArray[np.uint8], rate: int) -> NDArray[np.uint8]:
    """Low-resolution counterpart of a ground truth: uint8 [rH, rW, C] -> uint8 [H, W, C].

    Raises:
        ImageError: as `imresize`; or a side is no multiple of `rate` (see `crop_to_multiple`).
    """
    _require_rate(rate)
    _require_image(image)
    rows, columns = image.shape[:2]
    if rows % rate or columns % rate:
        raise ImageError(
            f"an image of {rows}x{columns} pixels cannot be shrunk exactly {rate} times",
            fix="crop it with crop_to_multiple first",
        )
    return imresize(image, rows // rate, columns // rate)


def upscale(image: NDArray[np.uint8], rate: int) -> NDArray[np.uint8]:
    """Plain bicubic enlargement: uint8 [H, W, C] -> uint8 [rate*H, rate*W, C].

    Raises:
        ImageError: as `imresize`; or `rate` is not positive.
    """
    _require_rate(rate)
    _require_image(image)
    return imresize(image, rate * image.shape[0], rate * image.shape[1])


def crop_to_multiple(image: NDArray[np.uint8], rate: int) -> NDArray[np.uint8]:
    """View of the top left part of [H, W, ...] whose sides are multiples of `rate`.

    Raises:
        ImageError: `rate` is not positive, or nothing would be left.
    """
    _require_rate(rate)
    rows, columns = (side - side % rate for side in image.shape[:2])
    if rows == 0 or columns == 0:
        raise ImageError(
            f"an image of {image.shape[0]}x{image.shape[1]} pixels is smaller than the rate {rate}",
            fix="use a larger image or a smaller rate",
        )
    return image[:rows, :columns]


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -1/2, support (-2, 2)."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def _taps(size: int, resized: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Input positions (not yet mirrored) and weights of every output sample, [resized, taps]."""
    scale = resized / size
    shrink = min(scale, 1.0)
    reach = 2 / shrink
    centre = (np.arange(resized) + 0.5) / scale - 0.5
    first = np.floor(centre - reach).astype(np.int64)
    position = first[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weight = _cubic(shrink * (centre[:, None] - position))
    return position, weight / weight.sum(axis=1, keepdims=True)


def _mirror(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Maps any position into 0..size-1; the image is repeated mirrored, edge samples twice."""
    position = position % (2 * size)
    return np.minimum(position, 2 * size - 1 - position)


def _resize_rows(image: NDArray[np.uint8], resized: int) -> NDArray[np.uint8]:
    """Resamples axis 0, as one small dense matrix product for every block of output rows."""
    size, *rest = image.shape
    flat = image.reshape(size, -1)
    result = np.empty((resized, flat.shape[1]), np.uint8)
    position, weight = _taps(size, resized)
    for start in range(0, resized, _BLOCK):
        block = slice(start, start + _BLOCK)
        offset = position[block] - position[start, 0]
        band = np.zeros((len(offset), int(offset.max()) + 1))
        np.put_along_axis(band, offset, weight[block], axis=1)
        source = _mirror(position[start, 0] + np.arange(band.shape[1]), size)
        value = band @ flat[source].astype(np.float64)
        value += 0.5 + _TIE
        result[block] = np.clip(value, 0, 255.5, out=value)  # the cast truncates
    return result.reshape(resized, *rest)


def _transpose(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, C] -> contiguous [W, H, C]."""
    rows, columns, channels = image.shape
    if channels > 4:
        return np.ascontiguousarray(image.swapaxes(0, 1))
    swapped = np.empty((columns, rows, channels), np.uint8)
    cv2.transpose(np.ascontiguousarray(image), swapped)
    return swapped


def _require_image(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.size == 0:
        raise ImageError(
            f"expected a uint8 image [H, W, C], got {image.dtype} {list(image.shape)}",
            fix="read it as 8-bit with a channel axis",
        )


def _require_rate(rate: int) -> None:
    if rate < 1:
        raise ImageError(f"the rate {rate} is not positive", fix="use an integer rate of 1 or more")
