"""Calibration methods: each maps the histogram of a tensor to the range that int8 will represent.

`METHODS` is the one registry; a spec's `calibrate_mode` is a key of it. Adding a method is adding a
class here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from calib import qparams
from calib.errors import CalibrationError
from calib.histogram import I64, Histogram
from calib.qparams import F64, INT8_MAX, INT8_MIN, QParams

Bounds = tuple[float, float]  # lo <= 0 <= hi; symmetric methods give (-T, T)


class Method(Protocol):
    """A frozen dataclass whose fields are the method's parameters."""

    name: ClassVar[str]

    def range(self, hist: Histogram, symmetric: bool) -> Bounds:
        """The range (lo, hi), lo <= 0 <= hi, within the values seen; (0, 0) for all zeros."""
        ...


@dataclass(frozen=True)
class Max:
    """Every value seen is representable."""

    name: ClassVar[str] = "max"

    def range(self, hist: Histogram, symmetric: bool) -> Bounds:
        """(-limit, limit), or (low, high) widened to contain zero."""
        if symmetric:
            return -hist.limit, hist.limit
        return min(hist.low, 0.0), max(hist.high, 0.0)


@dataclass(frozen=True)
class Percentile:
    """All but a fraction 1 - calibrate_range of the values is representable.

    Symmetric: the smallest bin edge T with at least that fraction of |x| below it. Asymmetric: the
    ends leave at most (1 - calibrate_range) / 2 in each tail.
    """

    name: ClassVar[str] = "percentile"
    calibrate_range: float = 0.9999

    def __post_init__(self) -> None:
        if not 0.5 < self.calibrate_range <= 1:
            raise CalibrationError(
                f"calibrate_range is {self.calibrate_range}",
                fix="give the fraction of values to keep, above 0.5 and at most 1, such as 0.9999",
            )

    def range(self, hist: Histogram, symmetric: bool) -> Bounds:
        """The quantiles, rounded outwards to bin edges and clipped to the values seen."""
        if symmetric:
            threshold = _first_edge(hist.magnitudes, 1 - self.calibrate_range) * hist.width
            return -threshold, threshold
        half, tail = len(hist.counts) // 2, (1 - self.calibrate_range) / 2
        high = (_first_edge(hist.counts, tail) - half) * hist.width
        low = (half - _first_edge(hist.counts[::-1], tail)) * hist.width
        seen_low, seen_high = Max().range(hist, symmetric)
        return min(0.0, max(low, seen_low)), max(0.0, min(high, seen_high))


def _first_edge(counts: I64, tail: float) -> int:
    """The first edge that leaves at most the fraction `tail` of the counts above it."""
    above = counts.sum() - np.concatenate([[0], np.cumsum(counts)])
    return int(np.argmax(above <= tail * counts.sum()))


@dataclass(frozen=True)
class KlDivergence:
    """The range whose quantized distribution is closest to the tensor's, by relative entropy.

    The published algorithm (S. Migacz, "8-bit inference with TensorRT", GTC 2017; TVM's relay had
    the same) takes 2048 bins of |x| and tries every threshold of i >= 128 bins: the reference is
    the histogram cut at bin i with all the outliers added to its last bin, the candidate the same
    i bins without them, merged into 128 equal levels of i // 128 bins (the last one takes the
    remainder), each level spread again over its non-empty bins. On the super-resolution networks
    this was made for, it clips where nothing should be clipped: a first activation that ends
    sharply at 0.81 was cut at 0.71, which alone cost 0.1 to 0.3 dB. The reasons, and what is done:

    * Cutting moves the outliers in reference and candidate alike, so the distance that a value is
      moved by clipping never counts, only the mass that is missing from the last bin. Here the
      reference is the whole histogram, outliers where they were seen, and the candidate has its
      clipped mass in the last level: a clipped bin costs p log(p / floor).
    * As i falls to 128 every level is one bin, and the divergence inside the range vanishes
      whatever the tensor: the algorithm is drawn to small thresholds. Here 2^12 magnitudes make 32
      bins a level without clipping, and the search ends at two.
    * i // 128 leaves a last level of up to 127 surplus bins, so that the divergence jumps with i.
      Here a bin belongs to the level that its centre rounds to, whatever the ratio.
    * Smoothing with 1e-4 per empty bin, as published ports do on raw counts, makes empty bins of a
      sparse tail cost more than clipping them. Here the candidate's probability has the floor
      1e-12 where it is zero, and bins that were empty in the reference cost nothing.

    * The distance still does not count, and where a bulk of values ends close to the threshold it
      must: on equalized networks the divergence alone clipped white areas, which cost 0.15 dB more
      than max. So only ranges whose squared error is within a quarter of the least are candidates.

    The spike at zero does no harm in either: zero is a level of its own.
    """

    name: ClassVar[str] = "kl_divergence"
    _FLOOR: ClassVar[float] = 1e-12
    _BINS_A_LEVEL: ClassVar[int] = 2
    _NEAR: ClassVar[float] = 1.25

    def range(self, hist: Histogram, symmetric: bool) -> Bounds:
        """The best of a geometric grid, over one end (symmetric) or over both."""
        least = Mse().range(hist, symmetric)
        if hist.total == 0 or least[0] == least[1]:
            return least
        q_least = qparams.symmetric(least[1]) if symmetric else qparams.asymmetric(*least)
        allowed = self._NEAR * Mse.error(hist, q_least)

        def cost(q: QParams) -> float:
            fine = q.scale >= self._BINS_A_LEVEL * hist.width
            return self.divergence(hist, q) if fine and Mse.error(hist, q) <= allowed else np.inf

        return _search(hist, symmetric, cost, least)

    @classmethod
    def divergence(cls, hist: Histogram, q: QParams) -> float:
        """D(reference || candidate) in nats for int8 with the scale and zero point q."""
        p = hist.counts / hist.total
        seen = np.flatnonzero(p)
        p, u = p[seen], hist.centres[seen] / q.scale
        level = _levels(u, q).astype(np.int64) + q.zero_point - INT8_MIN
        inside = np.abs(u + q.zero_point - INT8_MIN - level) <= 0.5
        mass = np.bincount(level, p, 256)
        bins = np.bincount(level, inside, 256)
        spread = np.where(inside, (mass / np.maximum(bins, 1))[level], 0)
        return float(p @ np.log(p / np.maximum(spread, cls._FLOOR)))


@dataclass(frozen=True)
class Mse:
    """The range of least mean squared error of quantizing, clipping included.

    Within a bin the density is taken as constant. With u = x / s and c = clamp(rne(u)) the integral
    of the squared error (u - c)^2 from 0 to u is c / 12 + (u - c)^3 / 3, inside the range (each of
    the c whole steps is worth 1 / 12) and beyond it, so the error of a candidate is one weighted
    sum over the edges, with no approximation but the constant density.
    """

    name: ClassVar[str] = "mse"

    def range(self, hist: Histogram, symmetric: bool) -> Bounds:
        """The best of a geometric grid, over one end (symmetric) or over both."""
        return _search(hist, symmetric, lambda q: self.error(hist, q))

    @classmethod
    def error(cls, hist: Histogram, q: QParams) -> float:
        """Expected squared error for int8 with the scale and zero point q, in the tensor's units.

        `hist` counts at least one value and is not all zero.
        """
        return float(cls.errors(hist, np.array([q.scale]), q.zero_point)[0])

    @staticmethod
    def errors(hist: Histogram, scales: F64, zero_point: int) -> F64:
        """The same for many scales and one zero point: binary64 of the shape of `scales`, [n]."""
        seen = np.flatnonzero(hist.counts)
        u = np.stack([hist.edges[seen], hist.edges[seen + 1]]) / scales[:, None, None]
        c = np.clip(np.rint(u), INT8_MIN - zero_point, INT8_MAX - zero_point)
        beyond = u - c
        integral = c / 12 + beyond * beyond * beyond / 3  # a power takes ten times as long
        total = (integral[:, 1] - integral[:, 0]) @ hist.counts[seen]
        result: F64 = total * scales**3 / (hist.width * hist.total)
        return result


METHODS: dict[str, type[Method]] = {m.name: m for m in (Max, Percentile, KlDivergence, Mse)}


def method(calibrate_mode: str, calibrate_range: float | None = None) -> Method:
    """The method that a spec names.

    Args:
        calibrate_mode: a key of `METHODS`.
        calibrate_range: fraction of values to keep, used by `percentile` only; None: its default.
    Raises:
        CalibrationError: no such method, or a range outside (0.5, 1].
    """
    if calibrate_mode not in METHODS:
        close = difflib.get_close_matches(calibrate_mode, METHODS, n=1)
        raise CalibrationError(
            f"there is no calibration method {calibrate_mode!r}",
            fix=f"did you mean {close[0]}?" if close else f"use one of {', '.join(METHODS)}",
        )
    if calibrate_mode == Percentile.name and calibrate_range is not None:
        return Percentile(calibrate_range)
    return METHODS[calibrate_mode]()


def _levels(u: F64, q: QParams) -> F64:
    """The centred integers q - z that u = x / s is quantized to, as binary64."""
    z = q.zero_point
    levels: F64 = np.clip(np.rint(u), INT8_MIN - z, INT8_MAX - z)
    return levels


_COARSE = 2.0 ** (-np.arange(8 * 8) / 8)  # steps of 9 %, from everything down to 1/256 of it
_FINE = 2.0 ** (-np.arange(-8, 9) / 64)  # steps of 1 % around the best of those
_MAX_SWEEPS = 8  # it settles after two or three


def _search(
    hist: Histogram,
    symmetric: bool,
    cost: Callable[[QParams], float],
    start: Bounds | None = None,
) -> Bounds:
    """The ends of least cost on a geometric grid; of equals, the widest.

    Asymmetric ends are searched in turn, each with the other held, until neither moves; they begin
    at `start`, or at all that was seen.
    """
    low, high = Max().range(hist, symmetric)
    if hist.total == 0 or low == high:
        return low, high
    if symmetric:
        threshold = _best(high, lambda end: cost(qparams.symmetric(end)))
        return -threshold, threshold
    ends = start or (low, high)
    for _ in range(_MAX_SWEEPS):
        previous, ends = ends, _sweep(ends, (low, high), cost)
        if ends == previous:
            break
    return ends


def _sweep(ends: Bounds, seen: Bounds, cost: Callable[[QParams], float]) -> Bounds:
    """Searches the upper end with the lower one held, then the lower one with the upper held."""
    high = _best(seen[1], lambda end: cost(qparams.asymmetric(ends[0], end)))
    low = _best(seen[0], lambda end: cost(qparams.asymmetric(end, high)))
    return low, high


def _best(end: float, cost: Callable[[float], float]) -> float:
    """The candidate between `end` and end / 256 of least cost; 0 where `end` is 0."""
    if end == 0:
        return end
    coarse = min(end * _COARSE, key=cost)
    fine = [candidate for candidate in coarse * _FINE if abs(candidate) <= abs(end)]
    return float(min(fine, key=cost))
