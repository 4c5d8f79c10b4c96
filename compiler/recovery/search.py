"""Thresholds by the output error itself: coordinate descent over the ranges of activations.

The error is that of the network with its activations quantized, its weights rounded or not, over
the samples (`Wanted.error`). Weights stay as they are; `recipe` rounds them again for the
thresholds found, and chooses where to start: a method that clips too much leaves a descent in a
valley of its own.

What the samples do not show would be clipped first, so of ranges that hardly differ in error the
wider is taken (`_CAUTION`). Tensors that a Concat joins move together. The graph input alone keeps
its range: every image uses all of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from calib import table as calib_table
from calib.histogram import Histogram
from calib.methods import Max
from calib.table import BYTES, LOSSLESS, CalibrationTable, TensorCalibration
from compiler.calibrate import concat_groups, ranges_by_method
from compiler.floatnet import FloatNetwork
from compiler.lowparts import completed, derived
from compiler.recovery.samples import Samples
from compiler.recovery.wanted import Wanted

FIRST, LAST = ((2, 1), (1,)), ((1,),)  # sweeps of the descents before and after rounding
_BEYOND = 2.0
_CAUTION = 0.1  # how much a range not covered counts: its power divides the error
Model = Callable[[CalibrationTable], onnx.ModelProto]
End = tuple[tuple[str, ...], int]  # names of the tensors that share a range; 0 its low end, 1 high
Place = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Landscape:
    """The output error over the ranges of a network's activations.

    Attributes:
        histograms: of every rounding point, for the ranges seen and the clipped fractions.
        wanted: what `net` makes of the samples.
        units: the rounding points whose ranges are free, in order, joined ones together.
    """

    net: FloatNetwork
    histograms: Mapping[str, Histogram]
    wanted: Wanted
    symmetric: bool
    units: tuple[tuple[str, ...], ...]

    @classmethod
    def of(
        cls,
        net: FloatNetwork,
        histograms: Mapping[str, Histogram],
        samples: Samples,
        *,
        symmetric: bool,
    ) -> Landscape:
        """The landscape of `net` over `samples`."""
        return cls(net, histograms, Wanted.of(net, samples), symmetric, tuple(_movable(net)))

    def error(self, model: Model, table: CalibrationTable) -> float:
        """Squared output error, greater by `_CAUTION` for what the ranges leave out.

        Args:
            model: the network with the activations of a table quantized, weights rounded or not.
        """
        free = [p for names in self.units for p in names]
        caution = float(np.prod([_covered(table[p]) ** -_CAUTION for p in free]))
        return self.wanted.error(model(self.whole(table))) * caution

    def whole(self, table: CalibrationTable) -> CalibrationTable:
        """The table with the ranges that follow from others (`lowparts.completed`)."""
        return completed(self.net, table, self.histograms, symmetric=self.symmetric)

    def unclipped(self, table: CalibrationTable) -> CalibrationTable:
        """The table of the method `max`; a graph input whose range is known keeps it."""
        wide = ranges_by_method(self.net, self.histograms, Max(), symmetric=self.symmetric)
        image = self.net.quantize_input.output
        if table[image].method in (BYTES, LOSSLESS):
            wide = CalibrationTable({**wide.tensors, image: table[image]})
        return self.whole(wide)

    def descend(
        self, model: Model, start: CalibrationTable, sweeps: Sequence[Sequence[int]]
    ) -> tuple[CalibrationTable, float]:
        """The ranges of least error that small steps from `start` lead to, and the error.

        A place on the way tells how many eighths of an octave each end is from its start.

        Args:
            sweeps: over all ends: the sizes of steps in eighths of an octave, large ones first.
        """
        ends = self._ends(start)

        @functools.cache
        def error(place: Place) -> float:
            table = self._at(place, ends, start)
            return math.inf if table is None else self.error(model, table)

        best: Place = (0,) * len(ends)
        for sizes in sweeps:
            before = error(best)
            for i in range(len(ends)):
                best = _walked(error, best, i, sizes)
            if error(best) > 0.999 * before:
                break
        found = self._at(best, ends, start)
        assert found is not None
        return self.whole(found), error(best)

    def _ends(self, start: CalibrationTable) -> list[End]:
        """The ends of ranges that can move: the upper one of symmetric ranges, none at 0."""
        sides = (1,) if self.symmetric else (1, 0)
        ends = [(names, side) for names in self.units for side in sides]
        return [end for end in ends if _bounds(start[end[0][0]])[end[1]]]

    def _at(
        self, place: Place, ends: Sequence[End], start: CalibrationTable
    ) -> CalibrationTable | None:
        """The table at a place; none beyond `_BEYOND` times what the histograms saw.

        Not at what they saw: the samples may show more than they did.
        """
        tensors = dict(start.tensors)
        for (names, side), eighths in zip(ends, place, strict=True):
            if not eighths:
                continue
            bounds = list(_bounds(tensors[names[0]]))
            bounds[side] = float(np.float32(bounds[side] * 2 ** (eighths / 8)))
            if self.symmetric:
                bounds[0] = -bounds[1]
            shown = [self.histograms[name] for name in names]
            if max(-bounds[0], bounds[1]) > _BEYOND * max(max(-h.low, h.high) for h in shown):
                return None
            for name in names:
                tensors[name] = calib_table.from_range(
                    self.histograms[name], bounds[0], bounds[1], start[name].method, self.symmetric
                )
        return CalibrationTable(tensors)


def _bounds(t: TensorCalibration) -> tuple[float, float]:
    return t.low, t.high


def _walked(error: Callable[[Place], float], best: Place, i: int, sizes: Sequence[int]) -> Place:
    """Moves end `i` downhill; finer steps go only to the side where the last ones rose less."""

    def stepped(by: int) -> Place:
        return (*best[:i], best[i] + by, *best[i + 1 :])

    sides = [1, -1]
    for number, size in enumerate(sizes):
        if number:
            rises = {side: error(stepped(side * sizes[number - 1])) for side in (1, -1)}
            sides = [min(rises, key=rises.__getitem__)]
        for side in sides:
            while error(stepped(side * size)) < error(best):
                best = stepped(side * size)
    return best


def _covered(t: TensorCalibration) -> float:
    """The part of the range seen that a range holds: 1 where nothing is clipped."""
    seen = t.max - t.min
    return max(min(t.high, t.max) - max(t.low, t.min), 1e-9 * seen) / seen if seen else 1.0


def _movable(net: FloatNetwork) -> list[tuple[str, ...]]:
    """The rounding points whose ranges are free, in order; those that one Concat joins together.

    Those of low parts and corrections follow from others.
    """
    image, groups, fixed = net.quantize_input.output, concat_groups(net), set(derived(net))
    units = [next((g for g in groups if p in g), frozenset({p})) for p in net.rounding_points]
    free = [u for u in dict.fromkeys(units) if not fixed & u and u != {image}]
    return [tuple(sorted(unit)) for unit in free]
