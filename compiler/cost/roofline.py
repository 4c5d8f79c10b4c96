"""The roofline of a die and the parts of both schedules under it, as SVG."""

from __future__ import annotations

from compiler import svg
from compiler.cost.model import Cost, Part
from compiler.svg import Axis

WIDTH, HEIGHT = 520, 340
_LABELS = 8  # more would cover one another
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 44, 46


def roofline(cost: Cost) -> str:
    """Attainable rate over multiply-accumulates a byte; both axes logarithmic.

    Operators without multiplications have no place on it.
    """
    layers = [p for p in cost.layer_by_layer.parts if p.macs]
    fused = [p for p in cost.fused.parts if p.macs]
    spots = [p.intensity for p in (*layers, *fused)] + [cost.die.ridge]
    x = Axis(min(spots) / 4, max(spots) * 4, _LEFT, WIDTH - _RIGHT, log=True)
    peak = cost.die.macs_per_s
    rates = [_rate(p) for p in (*layers, *fused)]
    y = Axis(min(*rates, peak / 100) / 2, peak * 2.5, HEIGHT - _BOTTOM, _TOP, log=True)
    roof = [
        (x(x.low), y(x.low * cost.die.bytes_per_s)),
        (x(cost.die.ridge), y(peak)),
        (x(x.high), y(peak)),
    ]
    assumed = " (assumed)" if cost.is_assumed("memory_ms") else ""
    gbs, tmacs = cost.die.bytes_per_s / 1e9, peak / 1e12
    parts = [
        svg.axes(x, y, "multiply-accumulates a byte", "MAC/s, one die"),
        svg.polyline(roof, "axis curve"),
        svg.text(x.end, y(peak) - 8, f"{tmacs:g} TMAC/s", "end"),
        _beside_the_slope(x, y, cost, f"memory {gbs:g} GB/s{assumed}"),
        *(_spot(p, x, y, "ring a", cost, "layer by layer") for p in layers),
        *(_spot(p, x, y, "dot-b", cost, "fused") for p in fused),
        *(_label(p, x, y) for p in (layers if len(layers) <= _LABELS else [])),
        svg.circle(WIDTH - 220, 12, 5, "ring a"),
        svg.text(WIDTH - 208, 16, "layer by layer"),
        svg.circle(WIDTH - 90, 12, 5, "dot-b"),
        svg.text(WIDTH - 78, 16, "fused"),
    ]
    return svg.figure(WIDTH, HEIGHT, parts, f"Roofline of one die of {cost.target}: {cost.name}")


def _beside_the_slope(x: Axis, y: Axis, cost: Cost, words: str) -> str:
    """The bandwidth's name, left of the slope where it is high."""
    at = cost.die.ridge / 3
    return svg.text(x(at) - 12, y(at * cost.die.bytes_per_s), words, "end")


def _label(part: Part, x: Axis, y: Axis) -> str:
    return svg.text(x(part.intensity) + 10, y(_rate(part)) + 14, part.name, kind="soft")


def _rate(part: Part) -> float:
    return part.macs / part.ms * 1e3


def _spot(part: Part, x: Axis, y: Axis, kind: str, cost: Cost, schedule: str) -> str:
    mark = " (assumed)" if cost.is_assumed("ms") else ""
    hint = (
        f"{part.name}, {schedule}: {part.intensity:.1f} MAC/byte, {part.ms:.3f} ms{mark}, "
        f"{part.bound} bound"
    )
    return svg.circle(x(part.intensity), y(_rate(part)), 5, kind, hint)
