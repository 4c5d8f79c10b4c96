"""The two passes of calibration: ranges first, then histograms with edges fixed by the ranges.

Both are sums over images (`merge` is associative and commutative, exactly), so the result does not
depend on the order of the images, on batches, or on how they were split over workers; and neither
grows with the number of images.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.errors import CalibrationError
from calib.qparams import F32, F64

I64 = NDArray[np.int64]

BINS = 2**13  # over [-limit, limit], so 2^12 magnitudes
_MIN_BINS = 2**11
_CHUNK = 2**16  # elements counted at a time: they stay in the cache
_TINY = 2.0**-100  # below it a tensor counts as all zero: bins / limit would leave binary32


@dataclass(frozen=True, eq=False)
class Range:
    """Smallest and largest value of each channel, binary32 [C] (pass 1)."""

    min: F32
    max: F32

    @classmethod
    def of(cls, x: F32, tensor: str = "") -> Range:
        """Range of one activation.

        Args:
            x: float32 [C, ...].
            tensor: its name, for errors.
        Raises:
            CalibrationError: a value is infinite or NaN, or there is none.
        """
        flat = x.reshape(len(x), -1)
        if flat.size == 0:
            raise CalibrationError("an activation is empty", where=f"tensor {tensor}")
        low, high = flat.min(axis=1), flat.max(axis=1)
        _require_finite(np.concatenate([low, high]), tensor)
        return cls(low.astype(np.float32), high.astype(np.float32))

    def merge(self, other: Range) -> Range:
        """Range of the union of both samples."""
        return Range(np.minimum(self.min, other.min), np.maximum(self.max, other.max))

    def scaled(self, factors: F32) -> Range:
        """Range of the tensor whose channel c is multiplied by factors[c] > 0; binary32 [C]."""
        return Range(self.min * factors, self.max * factors)

    @property
    def low(self) -> float:
        """Smallest value of all channels."""
        return float(self.min.min())

    @property
    def high(self) -> float:
        """Largest value of all channels."""
        return float(self.max.max())


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often a tensor's values fall into equal bins over [-limit, limit] (pass 2).

    limit = max(|low|, |high|). The edges are symmetric and one of them is zero. Bin bins/2 + k
    holds k * width <= x < (k + 1) * width and bin bins/2 - 1 - k its mirror image, so that folding
    onto |x| is exact; zero itself counts as positive.

    Attributes:
        low, high: binary32 range of the tensor over all images (pass 1).
        counts: int64 [bins], bins = 2^k with k >= 11.
    """

    low: float
    high: float
    counts: I64

    @classmethod
    def empty(cls, seen: Range, bins: int = BINS) -> Histogram:
        """A histogram of nothing, with the edges that the range of pass 1 fixes."""
        if bins < _MIN_BINS or bins & (bins - 1):
            raise CalibrationError(
                f"a histogram cannot have {bins} bins",
                fix=f"use a power of two of at least {_MIN_BINS}",
            )
        return cls(seen.low, seen.high, np.zeros(bins, np.int64))

    @property
    def limit(self) -> float:
        """Outermost edge m >= 0, a binary32 value; 0 for an all-zero tensor."""
        return max(abs(self.low), abs(self.high))

    @property
    def width(self) -> float:
        """Width of a bin, exact in binary64 (the limit times a power of two)."""
        return 2 * self.limit / len(self.counts)

    @property
    def edges(self) -> F64:
        """binary64 [bins + 1], from -limit to limit."""
        half = len(self.counts) // 2
        return np.arange(-half, half + 1).astype(np.float64) * self.width

    @property
    def centres(self) -> F64:
        """Middles of the bins: binary64 [bins], exact."""
        return self.edges[:-1] + self.width / 2

    @property
    def mean_square(self) -> float:
        """Mean of x^2, each value taken at the middle of its bin; `total` is not zero."""
        return float(self.counts @ self.centres**2) / self.total

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    @property
    def magnitudes(self) -> I64:
        """Counts of |x| in bins of the same width from 0: int64 [bins / 2]."""
        half = len(self.counts) // 2
        return self.counts[half:] + self.counts[half - 1 :: -1]

    def add(self, x: F32, tensor: str = "") -> Histogram:
        """This histogram and the values of x, every one of them.

        A value beyond the edges (rounding noise, where the tensor was rescaled after pass 1) counts
        in the outermost bin.

        Args:
            x: float32 of any shape.
            tensor: its name, for errors.
        Raises:
            CalibrationError: a value is infinite or NaN.
        """
        half = len(self.counts) // 2
        factor = np.float32(half / self.limit if self.limit > _TINY else 0)
        flat = x.reshape(-1)
        counts = self.counts.copy()
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            _require_finite(chunk, tensor)
            magnitude = np.minimum((np.abs(chunk) * factor).astype(np.int64), half - 1)
            index = half + np.where(chunk < 0, ~magnitude, magnitude)  # ~k = -1 - k
            counts += np.bincount(index, minlength=len(counts))
        return Histogram(self.low, self.high, counts)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both samples.

        Raises:
            CalibrationError: the edges differ.
        """
        if (self.low, self.high, len(self.counts)) != (other.low, other.high, len(other.counts)):
            raise CalibrationError(
                f"histograms over [{self.low}, {self.high}] and [{other.low}, {other.high}] of "
                f"{len(self.counts)} and {len(other.counts)} bins cannot be added",
                fix="give both the range of all images",
            )
        return Histogram(self.low, self.high, self.counts + other.counts)


def dump_ranges(ranges: Mapping[str, Range]) -> bytes:
    """Ranges by tensor name as the bytes of an npz file; same ranges, same bytes."""
    names = sorted(ranges)
    return _npz(
        names=np.array(names, np.str_),
        channels=np.array([len(ranges[n].min) for n in names], np.int64),
        min=np.concatenate([ranges[n].min for n in names] or [np.empty(0, np.float32)]),
        max=np.concatenate([ranges[n].max for n in names] or [np.empty(0, np.float32)]),
    )


def load_ranges(data: bytes) -> dict[str, Range]:
    """Inverse of `dump_ranges`."""
    with np.load(io.BytesIO(data)) as npz:
        splits = np.cumsum(npz["channels"])[:-1]
        parts = zip(np.split(npz["min"], splits), np.split(npz["max"], splits), strict=True)
        return {str(n): Range(*part) for n, part in zip(npz["names"], parts, strict=False)}


def dump_histograms(histograms: Mapping[str, Histogram]) -> bytes:
    """Histograms of equal bin count by tensor name as npz bytes; same histograms, same bytes."""
    names = sorted(histograms)
    return _npz(
        names=np.array(names, np.str_),
        low=np.array([histograms[n].low for n in names]),
        high=np.array([histograms[n].high for n in names]),
        counts=np.array([histograms[n].counts for n in names], np.int64),
    )


def load_histograms(data: bytes) -> dict[str, Histogram]:
    """Inverse of `dump_histograms`."""
    with np.load(io.BytesIO(data)) as npz:
        columns = (npz["names"], npz["low"], npz["high"], npz["counts"])
        return {
            str(name): Histogram(float(low), float(high), counts)
            for name, low, high, counts in zip(*columns, strict=True)
        }


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _require_finite(values: F32, tensor: str) -> None:
    # min and max propagate NaN and cost less than a mask of isfinite
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise CalibrationError(
            "an activation is infinite or not a number",
            where=f"tensor {tensor}",
            fix="run the network in float on the calibration images and mend it or them",
        )
