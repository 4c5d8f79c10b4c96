"""Image quality: PSNR, SSIM, luma, the Fréchet inception distance, and a confidence interval.

Images are uint8 or float [H, W] or [H, W, C] on the scale of [0, 255]; float values are taken
unrounded. All sums run in float64 over fixed tiles, so a result does not depend on the number of
threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from calib.errors import DataError, ImageError

Image: TypeAlias = NDArray[Any]
Float64: TypeAlias = NDArray[np.float64]
TileSum: TypeAlias = Callable[[NDArray[Any], NDArray[Any], NDArray[np.float64]], float]

PEAK: Final = 255.0
LUMA: Final = (65.481, 128.553, 24.966)
"""BT.601 weights of R, G and B, for values in [0, 1]."""
MIN_FID_PATCHES: Final = 2048
"""Inception features have 2048 dimensions: with fewer patches their covariance is singular."""

_WINDOW: Final = 11
_KERNEL: Final = cv2.getGaussianKernel(_WINDOW, 1.5, cv2.CV_64F)
_C1: Final = (0.01 * PEAK) ** 2
_C2: Final = (0.03 * PEAK) ** 2
_TILE: Final = (64, 256)
"""Output pixels of a tile, rows and columns: its dozen float64 planes stay in the cache."""


def psnr_db(reference: Image, image: Image, border: int = 0) -> float:
    """Peak signal-to-noise ratio 10 log10(255^2 / MSE) in dB over all channels.

    Args:
        reference: uint8 or float, [H, W] or [H, W, C], on the scale of [0, 255].
        image: the same shape; the two may differ in dtype.
        border: pixels that are cropped from each side first.

    Returns:
        The ratio; infinity where the images are equal.
    """
    a, b = _cropped(reference, image, border)
    squared_error = _sum_over_tiles(_squared_error, a, b, halo=0)
    return 10 * math.log10(PEAK * PEAK * a.size / squared_error) if squared_error > 0 else math.inf


def ssim(reference: Image, image: Image, border: int = 0) -> float:
    """Structural similarity, the mean over channels and over the window positions that fit.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004:
    Gaussian window 11 x 11, sigma 1.5, population covariance, K1 = 0.01, K2 = 0.03, range 255.

    Args:
        reference: uint8 or float, [H, W] or [H, W, C], on the scale of [0, 255].
        image: the same shape; the two may differ in dtype.
        border: pixels that are cropped from each side first.

    Returns:
        A value in [-1, 1]; 1 exactly where the images are equal.

    Raises:
        ImageError: what is left after the border is cropped is smaller than the window.
    """
    a, b = _cropped(reference, image, border)
    height, width = a.shape[:2]
    if min(height, width) < _WINDOW:
        raise ImageError(
            f"an image of {height} x {width} pixels is smaller than the SSIM window of "
            f"{_WINDOW} x {_WINDOW}",
            fix="measure larger images",
        )
    halo = _WINDOW - 1
    positions: int = a.size // (height * width) * (height - halo) * (width - halo)
    return _sum_over_tiles(_ssim_sum, a, b, halo=halo) / positions


def rgb_to_y(rgb: Image) -> Float64:
    """BT.601 luma of RGB [H, W, 3] in [0, 255]: float64 [H, W] in [16, 235], not rounded."""
    return rgb.astype(np.float64) @ (np.array(LUMA) / 255) + 16


def bootstrap_ci95(differences: Sequence[float], seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of the mean of `differences`, 10,000 resamples.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. With one value the
    interval is that value.
    """
    values = np.asarray(differences, np.float64)
    if values.size == 0:
        raise ValueError("the bootstrap needs at least one difference")
    draws = np.random.default_rng(seed).integers(0, values.size, (10_000, values.size))
    lo, hi = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(lo), float(hi)


@dataclass(frozen=True)
class Fid:
    """A Fréchet inception distance; `reliable` says that `patches` >= `MIN_FID_PATCHES`."""

    value: float
    patches: int
    reliable: bool


def patch_features(
    image: Image, features: Callable[[Image], NDArray[Any]], patch: int = 299
) -> Float64:
    """Features of every whole patch of one image: float64 [patches, D], row by row.

    Patches do not overlap; what does not fill one at the right and the bottom is left out.

    Args:
        image: [H, W, 3] on the scale of [0, 255].
        features: maps one patch [patch, patch, 3] to its feature vector [D].
        patch: side of a patch in pixels.
    """
    vectors = [
        np.asarray(features(image[y : y + patch, x : x + patch]), np.float64).ravel()
        for y in range(0, image.shape[0] - patch + 1, patch)
        for x in range(0, image.shape[1] - patch + 1, patch)
    ]
    return np.stack(vectors) if vectors else np.empty((0, 0))


def fid(reference: Float64, images: Float64, *, allow_few: bool = False) -> Fid:
    """Fréchet inception distance between two sets of patch features, [patches, D] each.

    Heusel et al., "GANs trained by a two time-scale update rule", 2017.

    Args:
        reference: features of the reference's patches.
        images: features of the images' patches.
        allow_few: permit fewer than `MIN_FID_PATCHES` patches; the result is then not `reliable`.

    Raises:
        DataError: too few patches.
    """
    count = min(len(reference), len(images))
    if count < 2 or (count < MIN_FID_PATCHES and not allow_few):
        raise DataError(
            f"FID from {count} patches is no reliable figure; it takes {MIN_FID_PATCHES}",
            fix="measure more or larger images, or allow few patches explicitly",
        )
    distance = frechet_distance(*_moments(reference), *_moments(images))
    return Fid(distance, count, count >= MIN_FID_PATCHES)


def frechet_distance(
    mean_a: Float64, covariance_a: Float64, mean_b: Float64, covariance_b: Float64
) -> float:
    """Squared Fréchet distance of two Gaussians: |ma - mb|^2 + tr(A + B - 2 (A B)^(1/2)).

    Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982. The
    trace of (A B)^(1/2) is the nuclear norm of A^(1/2) B^(1/2): real, and defined for singular
    covariances too.

    Args:
        mean_a, mean_b: [D].
        covariance_a, covariance_b: [D, D], symmetric and positive semidefinite.
    """
    product = _symmetric_root(covariance_a) @ _symmetric_root(covariance_b)
    cross = np.linalg.svd(product, compute_uv=False).sum()
    offset = mean_a - mean_b
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return float(offset @ offset + max(spread, 0.0))


def _symmetric_root(matrix: Float64) -> Float64:
    values, vectors = np.linalg.eigh(matrix)
    root: Float64 = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def _moments(vectors: Float64) -> tuple[Float64, Float64]:
    return vectors.mean(axis=0), np.atleast_2d(np.cov(vectors, rowvar=False))


def _cropped(reference: Image, image: Image, border: int) -> tuple[Image, Image]:
    if reference.shape != image.shape or reference.ndim not in (2, 3):
        raise ValueError(f"images of different shapes: {reference.shape} and {image.shape}")
    height, width = reference.shape[:2]
    if border < 0 or min(height, width) <= 2 * border:
        raise ImageError(
            f"nothing is left of {height} x {width} pixels after a border of {border} is cropped",
            fix="measure larger images",
        )
    inside = np.s_[border : height - border, border : width - border]
    return reference[inside], image[inside]


def _sum_over_tiles(tile_sum: TileSum, a: Image, b: Image, halo: int) -> float:
    """Add up `tile_sum` over tiles that overlap by `halo`, on every core, rounded once."""
    rows, columns = _TILE

    def of_band(y: int) -> float:
        band = np.s_[y : y + rows + halo]
        tiles = [np.s_[x : x + columns + halo] for x in range(0, a.shape[1] - halo, columns)]
        planes = np.empty((6, *a[band, tiles[0]].shape))
        return math.fsum(tile_sum(a[band, tile], b[band, tile], planes) for tile in tiles)

    bands = range(0, a.shape[0] - halo, rows)
    with ThreadPoolExecutor(min(len(bands), len(os.sched_getaffinity(0)))) as threads:
        return math.fsum(threads.map(of_band, bands))


def _squared_error(a: Image, b: Image, planes: Float64) -> float:
    difference = planes[0, :, : a.shape[1]]
    np.subtract(a, b, out=difference, dtype=np.float64)
    difference *= difference
    return float(difference.sum())


def _ssim_sum(a: Image, b: Image, planes: Float64) -> float:
    """Sum the SSIM map over the window positions inside a tile.

    With windowed means m: (2 mx my + C1) (2 cov + C2) / ((mx^2 + my^2 + C1) (vx + vy + C2)), where
    2 cov = m(2 x y) - 2 mx my and vx + vy = m(x^2 + y^2) - (mx^2 + my^2). All in place: fresh
    memory for every plane would cost more than the arithmetic.
    """
    x, y, mx, my, cross, power = planes[:, :, : a.shape[1]]
    x[...], y[...] = a, b
    _window_mean(x, out=mx)
    _window_mean(y, out=my)
    np.multiply(x, y, out=power)
    _window_mean(power, out=cross, scale=2, offset=_C2)
    x *= x
    y *= y
    x += y
    _window_mean(x, out=power, offset=_C2)
    mean_cross, mean_power = x, y
    np.multiply(mx, my, out=mean_cross)
    mean_cross += mean_cross
    mx *= mx
    my *= my
    np.add(mx, my, out=mean_power)
    cross -= mean_cross
    power -= mean_power
    mean_cross += _C1
    mean_power += _C1
    cross *= mean_cross
    power *= mean_power
    cross /= power
    half = _WINDOW // 2
    return float(cross[half:-half, half:-half].sum())


def _window_mean(x: Float64, *, out: Float64, scale: float = 1, offset: float = 0) -> None:
    """Windowed mean, times `scale`, plus `offset`; the outer 5 pixels of `out` mean nothing."""
    cv2.sepFilter2D(x, cv2.CV_64F, scale * _KERNEL, _KERNEL, dst=out, delta=offset)
