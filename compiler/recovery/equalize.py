"""Cross-layer equalization: channel scales that even out what 8 bits cost each channel.

(M. Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
scale ranges pairwise; here whole groups of tensors are scaled, and by error instead of range.)

Relu, LeakyReLU and PReLU are positively homogeneous, so that multiplying channel c of a tensor by
t_c > 0 and the weights that read it by 1 / t_c changes nothing in exact arithmetic. Tensors that a
residual, a Concat or data movement joins share the scales of the channels they share; the graph
input and what reaches the output unscaled have t_c = 1.

One scale s for the tensor then gives channel c the step s / t_c, whatever it needs. The steps are
chosen to minimise

    sum over tensors p and channels c of  S_pc E_pc(step_pc)

where E_pc(step) is the squared error of quantizing the channel with that step, clipping included
(in closed form from a histogram, `Mse.error`), and S_pc the output error per unit of it
(`sensitivity`). Clipping an outlier of a channel that hardly shows is thereby preferred over a
coarse step in one that does. For one tensor the channels separate; the tensors of a group are
coupled by their shared channels alone, and their relative scales are searched in turn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib.histogram import Histogram, Range
from calib.methods import Mse
from calib.qparams import F32, F64, INT8_MAX
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.recovery.channels import FIXED, Classes, channel_classes, groups
from compiler.recovery.samples import FloatValues, Samples
from compiler.recovery.sensitivity import Sensitivities

Factors = Mapping[str, F32]
_PER_OCTAVE = 6  # candidate steps: a grid of 12 %, on which the error is flat
_FINEST, _COARSEST = -4, 4  # octaves about the step that just avoids clipping
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SYMMETRIC_Z, _ASYMMETRIC_Z = (0,), (0, -64, -96, -112)


@dataclass(frozen=True, eq=False)
class Equalization:
    """Scales of every tensor's channels and what they promise.

    Attributes:
        factors: tensor to t, binary32 [channels].
        strength: the exponent of t that was chosen, 0 to 1.
        errors: predicted mean squared output error by strength.
    """

    factors: Factors
    strength: float
    errors: Mapping[float, float]

    def describe(self) -> str:
        """One line for the terminal."""
        before, after = self.errors[STRENGTHS[0]], self.errors[self.strength]
        return (
            f"equalization: strength {self.strength:g}, predicted squared output error "
            f"{before:.3g} -> {after:.3g}"
        )


NONE = Equalization({}, 0.0, {})
"""No equalization: every scale is 1."""


def to_json(equalization: Equalization) -> str:
    """The channel scales for a bundle; binary32 values that round-trip, names sorted."""
    factors = {n: [float(t) for t in v] for n, v in sorted(equalization.factors.items())}
    return json.dumps({"strength": equalization.strength, "factors": factors}, indent=1) + "\n"


def from_json(text: str) -> Factors:
    """The factors of `to_json`."""
    factors = json.loads(text)["factors"]
    return {n: np.array(v, np.float32) for n, v in factors.items()}


def dump(equalization: Equalization) -> bytes:
    """An equalization as the bytes of an npz file; the same one, the same bytes."""
    names = sorted(equalization.factors)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        names=np.array(names, np.str_),
        channels=np.array([len(equalization.factors[n]) for n in names], np.int64),
        factors=np.concatenate([equalization.factors[n] for n in names]),
        strength=np.array(equalization.strength),
        errors=np.array(sorted(equalization.errors.items())),
    )
    return buffer.getvalue()


def load(data: bytes) -> Equalization:
    """Inverse of `dump`."""
    with np.load(io.BytesIO(data)) as npz:
        parts = np.split(npz["factors"], np.cumsum(npz["channels"])[:-1])
        factors = {str(n): part for n, part in zip(npz["names"], parts, strict=True)}
        errors = {float(a): float(e) for a, e in npz["errors"]}
        return Equalization(factors, float(npz["strength"]), errors)


def equalize(net: FloatNetwork, factors: Factors) -> FloatNetwork:
    """The same function with channel c of every tensor multiplied by factors[tensor][c].

    Equal to about 1e-6 relative in binary32. Tensors without an entry stay as they are.
    """

    def of(name: str) -> F32:
        return factors.get(name, np.ones(net.channels[name], np.float32))

    def scaled(op: FloatConv) -> FloatConv:
        out, groups = of(op.output), op.groups
        read = of(op.input).reshape(groups, 1, -1).repeat(len(out) // groups, axis=1)
        read = read.reshape(len(out), -1, 1, 1)
        weight = op.weight * (out[:, None, None, None] / read)
        return replace(op, weight=weight.astype(np.float32), bias=op.bias * out)

    ops = tuple(scaled(op) if isinstance(op, FloatConv) else op for op in net.ops)
    return replace(net, ops=ops)


def choose(
    net: FloatNetwork,
    samples: Samples,
    sensitivities: Sensitivities,
    *,
    symmetric: bool,
    weight_error_share: float,
) -> Equalization:
    """The channel scales, and their strength (the exponent of t), of least predicted output error.

    Args:
        sensitivities: of every rounding point (`sensitivity.measure`).
        weight_error_share: what the weight rounding to come leaves of the error of rounding to
            nearest: 1 for nearest itself.
    """
    classes = channel_classes(net)
    points = [p for p in net.rounding_points if p in sensitivities]
    hists = _channel_histograms(net, points, samples)
    window = _window([h for p in points for h in hists[p]])
    tables = {
        p: np.stack(
            [
                _errors(h, window, symmetric) * s
                for h, s in zip(hists[p], sensitivities[p], strict=True)
            ],
            axis=1,
        )
        for p in points
    }  # [Z, C, steps]
    exponents: dict[int, float] = {FIXED: 0.0}
    for group in groups(points, classes):
        exponents |= _search({p: tables[p] for p in group}, classes, window)
    log_t = {n: np.array([exponents.get(int(k), 0.0) for k in classes[n]]) for n in net.channels}
    power = {p: np.array([_mean_square(h) for h in hists[p]]) for p in points}
    errors = {}
    for strength in STRENGTHS:
        logs = {n: strength * e for n, e in log_t.items()}
        rounding = sum(_tensor_error(tables[p], logs[p], window) for p in points)
        weights = _weight_error(net, logs, power, sensitivities)
        errors[strength] = rounding + weight_error_share * weights
    best = min(STRENGTHS, key=lambda a: errors[a])
    factors = {n: np.exp2(best * e).astype(np.float32) for n, e in log_t.items()}
    return Equalization(factors, best, errors)


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


_BINS = 2**11


def _window(hists: list[Histogram]) -> NDArray[np.int64]:
    """Candidate steps of all channels, as exponents in units of an octave / _PER_OCTAVE."""
    limits = [h.limit for h in hists if h.limit > 0] or [1.0]
    low, high = (np.log2(f(limits) / INT8_MAX) for f in (min, max))
    return np.arange(int(_PER_OCTAVE * (low + _FINEST)), int(_PER_OCTAVE * (high + _COARSEST)) + 1)


def _errors(hist: Histogram, window: NDArray[np.int64], symmetric: bool) -> F64:
    """Squared error of one channel by zero point and step: binary64 [Z, steps]."""
    zeros = _SYMMETRIC_Z if symmetric else _ASYMMETRIC_Z
    if hist.limit == 0:
        return np.zeros((len(zeros), len(window)))
    steps = np.exp2(window / _PER_OCTAVE)
    return np.array([Mse.errors(hist, steps, z) for z in zeros])


def _mean_square(hist: Histogram) -> float:
    centres = (hist.edges[:-1] + hist.edges[1:]) / 2
    return float(hist.counts @ centres**2) / hist.total


def _search(
    tables: Mapping[str, F64], classes: Classes, window: NDArray[np.int64]
) -> dict[int, float]:
    """log2 t of every class of one group of tensors.

    For given scales of the tensors each class takes its best exponent; the scale (and zero point)
    of each tensor is searched with those of the others held, until none moves.
    """
    ids = sorted({int(k) for p in tables for k in classes[p]})
    rows = {p: np.searchsorted(ids, classes[p]) for p in tables}
    exponents = -window  # a candidate t for each step, so that scale 0 reaches all of them

    def cost(p: str, scale: int, z: int) -> F64:
        """[classes, exponents]"""
        column = np.clip(scale - exponents - window[0], 0, len(window) - 1)
        total = np.zeros((len(ids), len(exponents)))
        np.add.at(total, rows[p], tables[p][z][:, column])
        return total

    fixed = np.array(ids) == FIXED
    at_one = int(np.clip(np.searchsorted(-exponents, 0), 0, len(exponents) - 1))

    def best(total: F64) -> float:
        return float(np.where(fixed, total[:, at_one], total.min(axis=1)).sum())

    span = range(int(window[0] - window[-1]), int(window[-1] - window[0]) + 1)
    if fixed.any():
        span = range(int(window[0]), int(window[-1]) + 1)
    scales = {p: (int(window[len(window) // 2]) if fixed.any() else 0, 0) for p in tables}
    for _ in range(_SWEEPS):
        before = dict(scales)
        for p in tables:
            others = np.zeros((len(ids), len(exponents)))
            for q in tables:
                if q != p:
                    others = others + cost(q, *scales[q])
            candidates = [(s, z) for z in range(len(tables[p])) for s in span]
            scales[p] = min(candidates, key=lambda c: (best(others + cost(p, *c)), abs(c[0])))
        if scales == before:
            break
    total = np.sum([cost(p, *scales[p]) for p in tables], axis=0)
    chosen = exponents[total.argmin(axis=1)] / _PER_OCTAVE
    flat = np.ptp(total, axis=1) == 0
    unit = 0.0 if fixed.any() else next(iter(scales.values()))[0] / _PER_OCTAVE + np.log2(INT8_MAX)
    chosen = np.where(fixed | flat, 0.0, chosen - unit)
    return {k: float(e) for k, e in zip(ids, chosen, strict=True)}


_SWEEPS = 4


def _tensor_error(table: F64, log_t: F64, window: NDArray[np.int64]) -> float:
    """Least error of one tensor over its scale and zero point, its channels scaled by 2^log_t."""
    shift = np.rint(_PER_OCTAVE * log_t).astype(np.int64)
    scales = np.arange(window[0] + shift.min(), window[-1] + shift.max() + 1)
    column = np.clip(scales[None, :] - shift[:, None] - window[0], 0, len(window) - 1)
    return float(min(np.take_along_axis(t, column, axis=1).sum(axis=0).min() for t in table))


def _weight_error(
    net: FloatNetwork,
    log_t: Factors | Mapping[str, F64],
    power: Mapping[str, F64],
    sensitivities: Sensitivities,
) -> float:
    """Output error of rounding all weights to nearest, each by a uniform error of its own."""
    total = 0.0
    for conv in net.convs:
        if conv.input not in power:
            continue
        t = np.exp2(log_t[conv.input])
        group = len(conv.weight) // conv.groups
        for g in range(conv.groups):
            read = slice(g * conv.weight.shape[1], (g + 1) * conv.weight.shape[1])
            rows = slice(g * group, (g + 1) * group)
            weight = conv.weight[rows] / t[read, None, None]
            step = np.abs(weight).reshape(group, -1).max(axis=1) / INT8_MAX
            shown = sensitivities.get(conv.output, np.full(len(conv.weight), 1 / len(conv.weight)))
            taps = float(np.prod(conv.kernel) * (power[conv.input][read] * t[read] ** 2).sum())
            total += float((shown[rows] * step**2).sum()) / 12 * taps
    return total
