"""Depth-first row bands: when each operator of a chain computes which rows, and where they live.

A chain of operators is computed a few rows at a time, so that the rows between two operators stay
in cache: each tensor inside the chain is a ring of rows. The image is cut into bands of blocks, one
a thread; a band recomputes the few rows above and below it that its windows reach (its halo).

Every operator is a `Stage`: its row y reads rows [y s - p, y s - p + span) of each input and
becomes rows [y u, (y + 1) u) of its output (u > 1: pixel shuffle, upscale). At step k a stage with
r rows a step computes its rows [r k - L, r (k + 1) - L). The lag L is the smallest for which the
rows it reads exist:
    s L >= L_t + span - s - p,
and the ring of tensor t keeps the rows from the oldest one that a consumer still reads to the
newest: R_t - L_t + s L + p rows. No image size enters except the number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Read:
    """Rows that one row of a stage reads: [y * stride - pad, y * stride - pad + span)."""

    tensor: str
    stride: int = 1
    pad: int = 0
    span: int = 1


@dataclass(frozen=True)
class Stage:
    """One operator, seen by its rows."""

    name: str
    reads: tuple[Read, ...]
    output: str
    up: int = 1  # rows of the output that one row of the stage becomes
    multiple: int = 1  # rows a step must be a multiple of this
    also: str = ""  # a second output, of the same rows

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that it writes."""
        return (self.output, self.also) if self.also else (self.output,)


@dataclass(frozen=True)
class Slot:
    """Schedule of one stage: it runs at steps [first block + begin, last block + end)."""

    rows: int
    lag: int
    begin: int
    end: int


@dataclass(frozen=True)
class Schedule:
    """Schedule of a chain; `blocks` steps of `slots[-1].rows` rows cover the last stage."""

    slots: tuple[Slot, ...]
    rings: Mapping[str, int]  # rows kept of each tensor inside the chain


def plan(stages: Sequence[Stage], min_rows: int = 1) -> Schedule | None:
    """The schedule of a chain in topological order, or None where its row rates do not agree.

    Args:
        stages: every tensor that a stage writes, except the last, is read only by later stages.
        min_rows: least rows a step of the last stage.
    """
    rates = _rates(stages)
    if rates is None:
        return None
    rows = _rows_per_step(stages, rates, min_rows)
    lags = _lags(stages, rows)
    halos = _halos(stages)
    slots = []
    for stage, r, lag in zip(stages, rows, lags, strict=True):
        above, below = halos[stage.name]
        slots.append(Slot(r, lag, (lag - above) // r, -(-(lag + below) // r)))
    return Schedule(tuple(slots), _rings(stages, rows, lags))


def _rates(stages: Sequence[Stage]) -> list[Fraction] | None:
    """Rows of each stage for one of the last; None where consumers disagree or are missing."""
    tensor_rate: dict[str, Fraction] = {stages[-1].output: Fraction(stages[-1].up)}
    rates: list[Fraction] = []
    for stage in reversed(stages):
        found = {tensor_rate.get(output) for output in stage.outputs}
        if len(found) != 1 or (known := found.pop()) is None:
            return None
        rate = known / stage.up
        rates.insert(0, rate)
        for read in stage.reads:
            if tensor_rate.setdefault(read.tensor, rate * read.stride) != rate * read.stride:
                return None
    return rates


def _rows_per_step(stages: Sequence[Stage], rates: list[Fraction], least: int) -> list[int]:
    """The smallest whole numbers in the ratio of the rates that respect every multiple."""
    unit = 1
    for stage, rate in zip(stages, rates, strict=True):
        needed = rate / stage.multiple  # unit * rate must be a multiple of stage.multiple
        unit = math.lcm(unit, needed.denominator)
    unit *= -(-least // unit)
    return [int(rate * unit) for rate in rates]


def _lags(stages: Sequence[Stage], rows: list[int]) -> list[int]:
    made: dict[str, int] = {}
    lags: list[int] = []
    for i, stage in enumerate(stages):
        reads = [r for r in stage.reads if r.tensor in made]
        needs = [-((r.stride + r.pad - r.span - made[r.tensor]) // r.stride) for r in reads]
        lag = max(needs, default=0)
        if i == len(stages) - 1:
            lag = -(-lag // rows[i]) * rows[i]  # the blocks of the output start at its first row
        lags.append(lag)
        made |= dict.fromkeys(stage.outputs, lag * stage.up)
    return lags


def _halos(stages: Sequence[Stage]) -> dict[str, tuple[int, int]]:
    """Rows above and below its share of a band that each stage computes."""
    tensors: dict[str, tuple[int, int]] = {stages[-1].output: (0, 0)}
    halos = {}
    for stage in reversed(stages):
        reached = zip(*(tensors[output] for output in stage.outputs), strict=True)
        above, below = (-(-max(rows) // stage.up) for rows in reached)
        halos[stage.name] = (above, below)
        for read in stage.reads:
            a = above * read.stride + read.pad
            b = below * read.stride - read.stride - read.pad + read.span
            old = tensors.get(read.tensor, (a, b))
            tensors[read.tensor] = (max(a, old[0]), max(b, old[1]))
    return halos


def _rings(stages: Sequence[Stage], rows: list[int], lags: list[int]) -> dict[str, int]:
    made = {
        output: (r * s.up, lag * s.up)
        for s, r, lag in zip(stages[:-1], rows, lags, strict=False)
        for output in s.outputs
    }
    rings: dict[str, int] = {}
    for stage, lag in zip(stages, lags, strict=True):
        for read in stage.reads:
            if read.tensor in made:
                step, made_lag = made[read.tensor]
                kept = step - made_lag + read.stride * lag + read.pad
                rings[read.tensor] = max(rings.get(read.tensor, step), kept)
    return rings
