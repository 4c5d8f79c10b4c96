"""The one home of scales, zero points and rounding; binary32, each operation rounded once.

Notation: a real value x is represented by the integer q with x = s * (q - z). `rne` rounds half to
even. Constants (multipliers) are computed in binary64 from binary32 scales, left to right, and
rounded once to binary32. docs/semantics.md states the whole semantics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.errors import CalibrationError

INT8_MIN, INT8_MAX = -128, 127
UINT8_MAX = 255
WEIGHT_MAX = 127
INT32_MAX = 2**31 - 1

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class QParams:
    """Scale s > 0 (a binary32 value) and zero point z in [-128, 127] of one int8 tensor."""

    scale: float
    zero_point: int = 0

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):
            rounded = float(np.float32(self.scale))
        if not (np.isfinite(rounded) and rounded > 0):
            raise CalibrationError(
                f"the scale {self.scale!r} is not a positive finite binary32 number",
                fix="check the calibration images and the network for non-finite activations",
            )
        if not INT8_MIN <= self.zero_point <= INT8_MAX:
            raise CalibrationError(
                f"the zero point {self.zero_point} lies outside int8",
                fix="choose a range [lo, hi] that contains zero",
            )
        object.__setattr__(self, "scale", rounded)


def symmetric(threshold: float) -> QParams:
    """s = T / 127, z = 0 for a threshold T >= 0 over |x|; an all-zero tensor (T = 0) has s = 1."""
    return QParams(float(np.float32(threshold) / np.float32(INT8_MAX)) or 1.0)


def asymmetric(lo: float, hi: float) -> QParams:
    """s = (hi - lo) / 255, z = clamp(rne(-128 - lo / s)), for the range widened to contain zero.

    Raises:
        CalibrationError: an end is not finite, or hi - lo is beyond binary32.
    """
    lo32, hi32 = np.float32(np.minimum(lo, 0.0)), np.float32(np.maximum(hi, 0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        scale = (hi32 - lo32) / np.float32(UINT8_MAX)
    if scale == 0:
        return QParams(1.0)
    q = QParams(float(scale))
    zero_point = int(np.clip(np.rint(np.float32(INT8_MIN) - lo32 / scale), INT8_MIN, INT8_MAX))
    return QParams(q.scale, zero_point)


def round_clamp(v: F32, zero_point: int, lo: int, hi: int) -> I32:
    """clamp(rne(v) + z, lo, hi), clamped in float before the conversion; NaN gives z.

    Args:
        v: binary32 values of any magnitude, infinities and NaN included.
    Returns:
        int32 array of v's shape in [lo, hi].
    """
    finite = np.where(np.isnan(v), np.float32(0), v)
    clamped = np.clip(finite, np.float32(lo - zero_point), np.float32(hi - zero_point))
    rounded: I32 = np.rint(clamped).astype(np.int32)
    return rounded + np.int32(zero_point)


def quantize(x: F32, q: QParams) -> I8:
    """clamp(rne(x / s) + z) with a true binary32 division, to int8."""
    with np.errstate(over="ignore", invalid="ignore"):
        v = x.astype(np.float32) / np.float32(q.scale)
    return round_clamp(v, q.zero_point, INT8_MIN, INT8_MAX).astype(np.int8)


def normalize(x: F32, mean: F32, std: F32) -> F32:
    """(x - mean[c]) / std[c], each operation rounded once to binary32.

    Args:
        x: [C, ...].
        mean, std: [C], or [1] for all channels; std is positive.
    """
    column = (-1, *[1] * (x.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        return (x.astype(np.float32) - mean.reshape(column)) / std.reshape(column)


def input_divisor(std: F32, s: float) -> F32:
    """d[c] = std[c] * s in binary64, as binary32: the one division of a normalized graph input."""
    return _multiplier(std.astype(np.float64) * np.float64(np.float32(s)))


def quantize_normalized(x: F32, mean: F32, std: F32, q: QParams) -> I8:
    """clamp(rne((x - mean[c]) / d[c]) + z), d = `input_divisor`; `quantize` where mean 0, std 1.

    Args:
        x: [C, ...].
        mean, std: [C], or [1] for all channels.
    """
    v = normalize(x, mean, input_divisor(std, q.scale))
    return round_clamp(v, q.zero_point, INT8_MIN, INT8_MAX).astype(np.int8)


def dequantize(q_x: I8, q: QParams) -> F32:
    """s * (q - z) in binary32."""
    return (q_x.astype(np.float32) - np.float32(q.zero_point)) * np.float32(q.scale)


def weight_scales(weight: NDArray[np.floating], *, per_channel: bool, power2: bool) -> F32:
    """Symmetric weight scales max|w| / 127 per output channel (axis 0), or one for all channels.

    Args:
        weight: float [O, ...].
        power2: round each scale up to a power of two, 2^ceil(log2 s), which never clips.
    Returns:
        binary32 [O]; 1 where a channel is all zero.
    """
    peak = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float32)
    if not per_channel:
        peak = np.full_like(peak, peak.max())
    scale = peak / np.float32(WEIGHT_MAX)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    if power2:
        mantissa, exponent = np.frexp(scale)  # s = mantissa * 2^exponent, mantissa in [1/2, 1)
        scale = np.ldexp(np.float32(1), exponent - (mantissa == 0.5)).astype(np.float32)
    result: F32 = scale.astype(np.float32)
    return result


def quantize_weights(weight: NDArray[np.floating], scales: F32) -> I8:
    """clamp(rne(w / s[c]), -127, 127) in binary32, to int8 of weight's shape [O, ...]."""
    column = scales.reshape(-1, *[1] * (weight.ndim - 1))
    v = weight.astype(np.float32) / column
    q_w: I8 = np.clip(np.rint(v), -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)
    return q_w


def quantize_bias(bias: NDArray[np.floating], s_x: float, s_w: F32) -> NDArray[np.int64]:
    """rne(bias / (s_x * s_w[c])) in binary64, as int64 (the compiler proves that it fits int32).

    Quotients beyond 2^62 are clamped there: the conversion to int64 would not keep their sign.
    """
    step = np.float64(np.float32(s_x)) * s_w.astype(np.float64)
    rounded = np.rint(bias.astype(np.float64) / step)
    clamped: NDArray[np.int64] = np.clip(rounded, -(2.0**62), 2.0**62).astype(np.int64)
    return clamped


def requantize_multiplier(s_x: float, s_w: F32, s_y: float = 1.0) -> F32:
    """M[c] = s_x * s_w[c] / s_y; with s_y = 1 the multiplier m of a float32 output."""
    product = np.float64(np.float32(s_x)) * s_w.astype(np.float64)
    return _multiplier(product / np.float64(np.float32(s_y)))


def uint8_multiplier(s_x: float, s_w: F32) -> F32:
    """m255[c] = 255 * s_x * s_w[c] of a uint8 output. binary32 [O]."""
    return _multiplier(np.float64(UINT8_MAX) * np.float64(np.float32(s_x)) * s_w.astype(np.float64))


def residual_multiplier(s_r: float, s_y: float = 1.0) -> np.float32:
    """R = s_r / s_y, computed in binary64 from binary32 scales, as binary32."""
    return np.float32(_multiplier(np.array(np.float32(s_r), np.float64) / np.float32(s_y)))


def _multiplier(exact: F64) -> F32:
    """A multiplier that was computed in binary64, rounded to binary32.

    Raises:
        CalibrationError: it is beyond binary32.
    """
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise CalibrationError(
            f"a requantization multiplier is {exact.max():.3g}, beyond binary32",
            fix="rescale the network's weights; the scales of its layers lie too far apart",
        )
    return rounded


def fma(a: F32, b: F32 | np.float32, c: F32) -> F32:
    """a * b + c rounded once to binary32 (IEEE fusedMultiplyAdd), for finite a and b and any c.

    The product of two binary32 numbers is exact in binary64. Their sum with c is rounded to odd
    there (Boldo & Melquiond 2008), which makes the second rounding, to binary32, the only one.
    """
    p = a.astype(np.float64) * np.float64(b)
    d = c.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        total = p + d
        virtual = total - p
        error = (p - (total - virtual)) + (d - virtual)  # Knuth's TwoSum: p + d = total + error
        bits = total.view(np.int64)
        even = (np.abs(error) > 0) & (bits & 1 == 0)  # false for infinities, whose error is NaN
        towards = np.where((error > 0) == (total > 0), 1, -1)
        odd = np.where(even, bits + towards, bits)
        return odd.view(np.float64).astype(np.float32)


def softmax(x: F32) -> F32:
    """exp(x - max) / sum over the channels, in binary32: what the host does behind a network.

    Difference, exponential, sum and quotient are rounded once each; the sum grows channel by
    channel. The exponential is that of binary64, rounded: binary32's differs between processors.

    Args:
        x: binary32 [N, C, H, W].
    Returns:
        binary32 of the same shape, in [0, 1]; NaN at pixels that hold a NaN or +infinity, or
        nothing but -infinity.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        shifted = x - x.max(axis=1, keepdims=True)
        powers = np.exp(shifted.astype(np.float64)).astype(np.float32)
        total = powers[:, :1].copy()
        for c in range(1, x.shape[1]):
            total += powers[:, c : c + 1]
        answer: F32 = powers / total
    return answer
