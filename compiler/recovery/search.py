"""Thresholds by the output error itself: coordinate descent from where the method left them.

The error is that of the network with its activations quantized, its weights rounded or not, over
the samples (`Wanted.error`). Weights stay as they are; the caller rounds them again for the
thresholds found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from calib import table as calib_table
from calib.histogram import Histogram
from calib.methods import Max
from calib.table import CalibrationTable, TensorCalibration
from compiler.calibrate import concat_groups
from compiler.floatnet import FloatNetwork
from compiler.lowparts import completed, derived
from compiler.recovery.wanted import Wanted

_FACTORS = (2.0**0.25, 2.0**0.125)  # of a threshold, tried up and down, coarse first
_SWEEPS = 2
_BEYOND = 2.0
_CAUTION = 0.1  # how much a range not covered counts: its power divides the error
Bounds = tuple[float, float]


def search(
    net: FloatNetwork,
    model: Callable[[CalibrationTable], onnx.ModelProto],
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    wanted: Wanted,
    *,
    symmetric: bool,
) -> CalibrationTable:
    """The ranges of least output error near those of `table`, or near all that was seen.

    A method that clips too much leaves the descent in a valley of its own: where clipping nothing
    has the smaller error, it starts from there. What the samples do not show would be clipped
    first, so of ranges that hardly differ in error the wider is taken (`_CAUTION`).

    The graph input keeps its range: every image uses all of it. Tensors that a Concat joins move
    together.

    Args:
        model: the network with the activations of a table quantized, weights rounded or not.
        histograms: of every rounding point, for the ranges seen and the clipped fractions.
        wanted: what `net` makes of the samples.
    """

    units = _movable(net)

    def whole(candidate: CalibrationTable) -> CalibrationTable:
        return completed(net, candidate, histograms, symmetric=symmetric)

    def error(candidate: CalibrationTable) -> float:
        covered = float(np.prod([_covered(candidate[p]) for names in units for p in names]))
        return wanted.error(model(whole(candidate))) / float(covered**_CAUTION)

    starts = [table, _unclipped(table, histograms, units, symmetric)]
    best, least = min(((t, error(t)) for t in starts), key=lambda start: start[1])
    for _ in range(_SWEEPS):
        before = least
        for names in units:
            for end in (1,) if symmetric else (1, 0):
                best, least = _walk(best, least, names, end, histograms, symmetric, error)
        if least > 0.999 * before:
            break
    return whole(best)


def _covered(t: TensorCalibration) -> float:
    """The part of the range seen that a range holds: 1 where nothing is clipped."""
    seen = t.max - t.min
    return max(min(t.high, t.max) - max(t.low, t.min), 1e-9 * seen) / seen if seen else 1.0


def _unclipped(
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    units: list[tuple[str, ...]],
    symmetric: bool,
) -> CalibrationTable:
    """The table of the method `max`, but for the graph input."""
    tensors = dict(table.tensors)
    for names in units:
        ends = [Max().range(histograms[name], symmetric) for name in names]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        for name in names:
            tensors[name] = calib_table.from_range(histograms[name], low, high, Max.name, symmetric)
    return CalibrationTable(tensors)


def _walk(
    table: CalibrationTable,
    least: float,
    names: tuple[str, ...],
    end: int,
    histograms: Mapping[str, Histogram],
    symmetric: bool,
    error: Callable[[CalibrationTable], float],
) -> tuple[CalibrationTable, float]:
    """Moves one end of a range downhill, first in large steps."""
    for factor in _FACTORS:
        for direction in (factor, 1 / factor):
            while True:
                moved = _moved(table, names, end, direction, histograms, symmetric)
                if moved == table or (found := error(moved)) >= least:
                    break
                table, least = moved, found
    return table, least


def _moved(
    table: CalibrationTable,
    names: tuple[str, ...],
    end: int,
    factor: float,
    histograms: Mapping[str, Histogram],
    symmetric: bool,
) -> CalibrationTable:
    """The table with one end of the named tensors' ranges times `factor`.

    At most `_BEYOND` times what the histograms saw: the samples may show more than they did.
    """
    tensors = dict(table.tensors)
    seen = max(abs(h) for n in names for h in (histograms[n].low, histograms[n].high))
    for name in names:
        t = tensors[name]
        bounds = [t.low, t.high]
        bounds[end] = float(np.float32(bounds[end] * factor))
        if symmetric:
            bounds[0] = -bounds[1]
        if max(-bounds[0], bounds[1]) <= _BEYOND * seen:
            tensors[name] = calib_table.from_range(
                histograms[name], bounds[0], bounds[1], t.method, symmetric
            )
    return CalibrationTable(tensors)


def _movable(net: FloatNetwork) -> list[tuple[str, ...]]:
    """The rounding points whose ranges are free, in order; those that one Concat joins together.

    That of the graph input is known, those of low parts and corrections follow from others.
    """
    groups = concat_groups(net)
    fixed = {net.ops[0].output, *derived(net)}
    units = [next((g for g in groups if p in g), frozenset({p})) for p in net.rounding_points]
    return [tuple(sorted(unit)) for unit in dict.fromkeys(units) if not fixed & unit]
