"""Chooses the channel scales of equalization, by what 8 bits cost each channel.

One scale s for the tensor then gives channel c the step s / t_c, whatever it needs. The steps are
chosen to minimise

    sum over tensors p and channels c of  S_pc E_pc(step_pc)  +  what rounding the weights costs

where E_pc(step) is the squared error of quantizing the channel with that step, clipping included
(in closed form from a histogram, `Mse.error`), and S_pc the output error per unit of it
(`sensitivity`). Clipping an outlier of a channel that hardly shows is thereby preferred over a
coarse step in one that does. The cost of the weights is in `weightcost`.

The first sum alone has a good start (`_search`): for one tensor the channels separate; the tensors
of a group are coupled by their shared channels alone, and their relative scales are searched in
turn. All exponents then take the strength where both sums are least.

Channels of a tensor whose rounding does not show at all, since it has a low part (`lowparts`), are
left open by that: they descend one by one to the scales that suit the weights which read them.
(All channels, which is least by prediction, made Bicubic++ 0.007 dB worse from four photographs.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.histogram import Histogram, Range
from calib.methods import Mse
from calib.qparams import F64, INT8_MAX
from compiler.float_values import FloatValues
from compiler.floatnet import FloatNetwork
from compiler.recovery.channels import FIXED, Classes, channel_classes, groups
from compiler.recovery.equalize import STRENGTHS, Equalization
from compiler.recovery.samples import Samples
from compiler.recovery.sensitivity import Sensitivities
from compiler.recovery.weightcost import WeightCost, weight_costs

_PER_OCTAVE = 6  # candidate steps: a grid of 12 %, on which the error is flat
_FINEST, _COARSEST = -4, 4  # octaves about the step that just avoids clipping
_SYMMETRIC_Z, _ASYMMETRIC_Z = (0,), (0, -64, -96, -112)
_BINS = 2**11
_HIDDEN = 1e-9  # of the largest error: what is left where a low part cancels a tensor's
_SWEEPS = 4
_MOVES = np.array(sorted(range(-3 * _PER_OCTAVE, 3 * _PER_OCTAVE + 1), key=abs))  # the least first


def choose(
    net: FloatNetwork,
    samples: Samples,
    sensitivities: Sensitivities,
    *,
    symmetric: bool,
    weight_error_share: float,
) -> Equalization:
    """The channel scales of least predicted output error.

    Args:
        sensitivities: of every rounding point (`sensitivity.measure`).
        weight_error_share: what the weight rounding to come leaves of the error of rounding to
            nearest: 1 for nearest itself.
    """
    classes = channel_classes(net)
    points = [p for p in net.rounding_points if p in sensitivities]
    hists = _channel_histograms(net, points, samples)
    window = _window([h for p in points for h in hists[p]])
    tables = {p: _table(hists[p], sensitivities[p], window, symmetric) for p in points}
    exponents: dict[int, float] = {FIXED: 0.0}
    for group in groups(points, classes):
        exponents |= _search({p: tables[p] for p in group}, classes, window)
    power = {p: np.array([h.mean_square for h in hists[p]]) for p in points}
    weights = weight_costs(net, power, sensitivities, weight_error_share)
    cost = _Cost(classes, tables, window, weights)
    log_t = {n: np.array([exponents.get(int(k), 0.0) for k in c]) for n, c in classes.items()}
    errors = {a: cost.of(_scaled(log_t, a)) for a in STRENGTHS}
    best = min(STRENGTHS, key=lambda a: errors[a])
    found, error = _descended(_scaled(log_t, best), cost)
    factors = {n: np.exp2(e).astype(np.float32) for n, e in found.items()}
    return Equalization(factors, best, errors, error)


def _scaled(log_t: Mapping[str, F64], strength: float) -> dict[str, F64]:
    return {n: strength * e for n, e in log_t.items()}


def _channel_histograms(
    net: FloatNetwork, points: list[str], samples: Samples
) -> dict[str, list[Histogram]]:
    """A histogram of each channel of each point over the samples."""
    values = FloatValues(net, points)
    seen: dict[str, Range] = {}
    for tile in samples.tiles:
        for p, x in values.of(tile).items():
            seen[p] = Range.of(x, p).merge(seen[p]) if p in seen else Range.of(x, p)
    hists = {
        p: [
            Histogram.empty(Range(r.min[c : c + 1], r.max[c : c + 1]), _BINS)
            for c in range(len(r.min))
        ]
        for p, r in seen.items()
    }
    for tile in samples.tiles:
        for p, x in values.of(tile).items():
            hists[p] = [h.add(channel, p) for h, channel in zip(hists[p], x, strict=True)]
    return hists


def _window(hists: list[Histogram]) -> NDArray[np.int64]:
    """Candidate steps of all channels, as exponents in units of an octave / _PER_OCTAVE."""
    limits = [h.limit for h in hists if h.limit > 0] or [1.0]
    low, high = (np.log2(f(limits) / INT8_MAX) for f in (min, max))
    return np.arange(int(_PER_OCTAVE * (low + _FINEST)), int(_PER_OCTAVE * (high + _COARSEST)) + 1)


def _table(
    hists: list[Histogram], sensitivity: F64, window: NDArray[np.int64], symmetric: bool
) -> F64:
    """Output error of one tensor by zero point, channel and step: binary64 [Z, C, steps]."""
    pairs = zip(hists, sensitivity, strict=True)
    return np.stack([_channel_errors(h, window, symmetric) * s for h, s in pairs], axis=1)


def _channel_errors(hist: Histogram, window: NDArray[np.int64], symmetric: bool) -> F64:
    """Squared error of one channel by zero point and step: binary64 [Z, steps]."""
    zeros = _SYMMETRIC_Z if symmetric else _ASYMMETRIC_Z
    if hist.limit == 0:
        return np.zeros((len(zeros), len(window)))
    steps = np.exp2(window / _PER_OCTAVE)
    return np.array([Mse.errors(hist, steps, z) for z in zeros])


@dataclass(frozen=True, eq=False)
class _Group:
    """Tensors that are coupled by the channels they share, while their scales are searched.

    Attributes:
        tables: error of each channel of each tensor by zero point and step: [Z, C, steps].
        window: the steps, as exponents; a scale of a tensor counts in them too.
        rows: which class each channel is of.
        fixed: the classes whose t is 1.
    """

    tables: Mapping[str, F64]
    window: NDArray[np.int64]
    rows: Mapping[str, NDArray[np.intp]]
    fixed: NDArray[np.bool_]

    @property
    def exponents(self) -> NDArray[np.int64]:
        """A candidate of log2 t for each step, so that scale 0 reaches all of them."""
        return -self.window

    def cost(self, p: str, scale: int, z: int) -> F64:
        """Error of tensor p at a scale by class and exponent: [classes, exponents]."""
        column = np.clip(scale + self.window - self.window[0], 0, len(self.window) - 1)
        total = np.zeros((len(self.fixed), len(self.window)))
        np.add.at(total, self.rows[p], self.tables[p][z][:, column])
        return total

    def least(self, total: F64) -> float:
        """The sum over the classes, each at its best exponent."""
        at_one = int(np.clip(np.searchsorted(self.window, 0), 0, len(self.window) - 1))
        return float(np.where(self.fixed, total[:, at_one], total.min(axis=1)).sum())

    def scales(self) -> dict[str, tuple[int, int]]:
        """Scale and zero point of each tensor, searched in turn until none moves."""
        window, anchored = self.window, bool(self.fixed.any())
        low, high = int(window[0]), int(window[-1])
        span = range(low, high + 1) if anchored else range(low - high, high - low + 1)
        found = {p: (int(window[len(window) // 2]) if anchored else 0, 0) for p in self.tables}
        for _ in range(_SWEEPS):
            before = dict(found)
            for p in self.tables:
                others = np.zeros((len(self.fixed), len(window)))
                for q in self.tables:
                    if q != p:
                        others = others + self.cost(q, *found[q])
                found[p] = self._best(p, span, others)
            if found == before:
                break
        return found

    def _best(self, p: str, span: range, others: F64) -> tuple[int, int]:
        candidates = [(s, z) for z in range(len(self.tables[p])) for s in span]
        return min(candidates, key=lambda c: (self.least(others + self.cost(p, *c)), abs(c[0])))


def _search(
    tables: Mapping[str, F64], classes: Classes, window: NDArray[np.int64]
) -> dict[int, float]:
    """log2 t of every class of one group of tensors.

    For given scales of the tensors each class takes its best exponent; the scale (and zero point)
    of each tensor is searched with those of the others held, until none moves.
    """
    ids = sorted({int(k) for p in tables for k in classes[p]})
    rows = {p: np.searchsorted(ids, classes[p]) for p in tables}
    group = _Group(tables, window, rows, fixed=np.array(ids) == FIXED)
    scales = group.scales()
    total = np.sum([group.cost(p, *scales[p]) for p in tables], axis=0)
    chosen = group.exponents[total.argmin(axis=1)] / _PER_OCTAVE
    flat = np.ptp(total, axis=1) == 0
    unit = 0.0
    if not group.fixed.any():
        unit = next(iter(scales.values()))[0] / _PER_OCTAVE + np.log2(INT8_MAX)
    chosen = np.where(group.fixed | flat, 0.0, chosen - unit)
    return {k: float(e) for k, e in zip(ids, chosen, strict=True)}


@dataclass(frozen=True, eq=False)
class _Cost:
    """Predicted output error of all roundings, by log2 t of every channel of every tensor.

    Attributes:
        tables: error of each channel of each tensor by zero point and step: [Z, C, steps].
        window: the steps, as exponents.
        weights: of the convolutions that read these tensors.
    """

    classes: Classes
    tables: Mapping[str, F64]
    window: NDArray[np.int64]
    weights: Sequence[WeightCost]

    def of(self, log_t: Mapping[str, F64]) -> float:
        """The predicted error."""
        nothing = np.zeros(1)
        rounding = sum(
            _tensor_errors(t, log_t[p], np.zeros(t.shape[1], np.bool_), nothing, self.window)[0]
            for p, t in self.tables.items()
        )
        return float(rounding) + sum(w.error(log_t[w.tensor]) for w in self.weights)

    def shown(self) -> set[int]:
        """The classes that have a channel whose rounding shows in the output."""
        least = _HIDDEN * max((float(table.max()) for table in self.tables.values()), default=0.0)
        return {
            int(k)
            for p, table in self.tables.items()
            for k, errors in zip(self.classes[p], table.transpose(1, 0, 2), strict=True)
            if errors.max() > least
        }

    def by(self, k: int, to: F64, log_t: Mapping[str, F64]) -> F64:
        """The part of the error that class k moves, for some log2 t of it: as `to`."""
        moved = {p: self.classes[p] == k for p in self.tables if (self.classes[p] == k).any()}
        total = np.zeros(len(to))
        for p, channels in moved.items():
            total += _tensor_errors(self.tables[p], log_t[p], channels, to, self.window)
        for w in self.weights:
            if w.tensor in moved:
                total += w.errors(log_t[w.tensor], moved[w.tensor], to)
        return total


def _descended(start: Mapping[str, F64], cost: _Cost) -> tuple[dict[str, F64], float]:
    """Each class whose rounding does not show takes its best exponent with the others held.

    Returns:
        log2 t of every channel, and the predicted error.
    """
    log_t, least = {n: e.copy() for n, e in start.items()}, cost.of(start)
    at = {int(k): e for p in cost.tables for k, e in zip(cost.classes[p], log_t[p], strict=True)}
    hidden = sorted(at.keys() - {FIXED} - cost.shown())
    for _ in range(_SWEEPS):
        before = least
        for k in hidden:
            to = at[k] + _MOVES / _PER_OCTAVE
            at[k] = to[cost.by(k, to, log_t).argmin()]
            for n, classes in cost.classes.items():
                log_t[n][classes == k] = at[k]
        least = cost.of(log_t)
        if least > 0.999 * before:
            break
    return log_t, least


def _tensor_errors(
    table: F64, log_t: F64, moved: NDArray[np.bool_], to: F64, window: NDArray[np.int64]
) -> F64:
    """Least error of one tensor by scale and zero point, some channels at each of some log2 t.

    Args:
        table: error by zero point, channel and step: [Z, C, steps].
        log_t: of every channel, binary64 [C].
        to: of the channels `moved`, binary64 [candidates].
    Returns:
        binary64 [candidates].
    """
    held, shifts = (np.rint(_PER_OCTAVE * e).astype(np.int64) for e in (log_t[~moved], to))
    reach = np.concatenate([held, shifts])
    scales = np.arange(window[0] + reach.min(), window[-1] + reach.max() + 1)
    ends, first = (0, len(window) - 1), window[0]
    column = np.clip(scales[None, :] - held[:, None] - first, *ends)
    rest = np.take_along_axis(table[:, ~moved], column[None], axis=2).sum(axis=1)
    own = table[:, moved].sum(axis=1)[:, np.clip(scales - shifts[:, None] - first, *ends)]
    least: F64 = (rest[:, None] + own).min(axis=(0, 2))
    return least
