"""The report's plots, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from calib.histogram import I64
from calib.qparams import F32
from compiler import svg
from compiler.accuracy import Accuracy
from compiler.latency import Latency
from compiler.metrics import bootstrap_ci95
from compiler.report.layers import ChannelRanges, Choice, TensorRow
from compiler.svg import Axis

WIDTH = 460
_LEFT, _RIGHT = 50, 30
_BARS = 200  # bars of a histogram
_COLOURS: Mapping[str, str] = {"max": "d", "percentile": "c", "kl_divergence": "b", "mse": "a"}


def drops(accuracy: Accuracy, gate_db: float | None) -> str:
    """The PSNR drop of every image, their mean with its confidence interval, and the gate."""
    values = accuracy.drops("psnr_rgb_db")
    names = [image.name for image in accuracy.images]
    mean = float(np.mean(values))
    low, high = bootstrap_ci95(values, accuracy.seed)
    marks = [*values, 0.0, *([gate_db] if gate_db is not None else [])]
    margin = 0.05 * (max(marks) - min(marks) or 1)
    height = 200
    x = Axis(min(marks) - margin, max(marks) + margin, _LEFT, WIDTH - _RIGHT)
    y = Axis(0, 1, height - 46, 44)
    ranks = np.argsort(np.argsort(values))
    parts = [
        svg.rect(x(low), y(1), x(high) - x(low), y(0) - y(1), "area"),
        *_x_axis(x, height, "drop in dB, fp32 - int8"),
        svg.line((x(0), y(0)), (x(0), y(1)), "axis"),
        svg.line((x(mean), y(0)), (x(mean), y(1)), "a curve"),
        svg.text(x(mean), y(1) - 8, f"mean {mean:.3f}", "middle"),
        *(
            svg.circle(x(v), y((r + 0.5) / len(values)), 4.5, "dot-a", f"{n}: {v:.3f} dB")
            for v, r, n in zip(values, ranks, names, strict=True)
        ),
    ]
    if gate_db is not None:
        parts += [
            svg.line((x(gate_db), y(0)), (x(gate_db), y(1) - 18), "b curve dash"),
            svg.text(x(gate_db), y(1) - 24, f"gate {gate_db:g}", "middle"),
        ]
    return svg.figure(WIDTH, height, parts, f"PSNR drop of {len(values)} images, mean {mean:.3f}")


def _x_axis(x: Axis, height: int, label: str) -> list[str]:
    bottom = height - 46
    parts = [svg.line((x.start, bottom), (x.end, bottom), "axis")]
    for value in x.ticks(5):
        parts.append(svg.line((x(value), bottom), (x(value), bottom + 5), "axis"))
        parts.append(svg.text(x(value), bottom + 18, svg.short(value), "middle", "soft"))
    return [*parts, svg.text((x.start + x.end) / 2, bottom + 38, label, "middle", "soft")]


def histogram(row: TensorRow) -> str:
    """Counts over values, logarithmic, with the chosen range and what the methods would take."""
    hist, height = row.histogram, 220
    ends = [row.chosen, *row.alternatives]
    if hist.limit == 0:
        return svg.figure(WIDTH, 40, [svg.text(10, 24, "all values are zero")], row.name)
    low = min(hist.low, 0.0)
    high = max(hist.high, row.chosen.high, *(c.high for c in ends if low == 0), 0.0)
    margin = 0.02 * (high - low)
    x = Axis(low - margin, high + margin, _LEFT, WIDTH - _RIGHT)
    half = len(hist.counts) // 2
    group = max(1, round((high - low) / hist.width / _BARS))
    first = int(np.floor(low / hist.width)) + half
    cut = hist.counts[max(first, 0) :]
    sums = np.add.reduceat(cut, np.arange(0, len(cut), group))
    y = Axis(0.8, max(float(sums.max()), 2.0) * 1.5, height - 46, 34, log=True)
    parts = [svg.axes(x, y, "value", "", y_ticks=4)]
    start = (max(first, 0) - half) * hist.width
    parts.append(svg.path(_skyline(sums, start, group * hist.width, x, y), "area outline"))
    for choice in row.alternatives:
        parts += _range(choice, x, y, f"{method_kind(choice.method)} dash curve")
    parts += _range(row.chosen, x, y, "ink curve", "chosen")
    return svg.figure(WIDTH, height, parts, f"Histogram of {row.name}")


def _skyline(sums: I64, start: float, width: float, x: Axis, y: Axis) -> str:
    """The outline of the bars; only where their height changes."""
    commands = [f"M{svg.number(x(start))} {svg.number(y(y.low))}"]
    for i, count in enumerate(sums):
        if start + i * width > x.high:
            break
        top = svg.number(y(float(count)) if count else y(y.low))
        commands.append(f"V{top}H{svg.number(x(start + (i + 1) * width))}")
    return "".join(commands) + f"V{svg.number(y(y.low))}Z"


def _range(choice: Choice, x: Axis, y: Axis, kind: str, tag: str = "") -> list[str]:
    """Lines at those ends of a range that are on the plot."""
    parts = []
    for end in (choice.low, choice.high):
        if end and x.low <= end <= x.high:
            parts.append(svg.line((x(end), y.start), (x(end), y.end - (12 if tag else 0)), kind))
            parts.append(svg.text(x(end), y.end - 17, tag, "middle"))
    return parts if tag else parts[::2]


def method_kind(method: str) -> str:
    """The colour class of a method's line."""
    return _COLOURS.get(method, "a")


def channels(row: ChannelRanges) -> str:
    """The range of every channel: bars after equalization, pale ones before it where it differs."""
    height = 150
    ends = [row.low, row.high, *((row.low_before, row.high_before) if row.changed else ())]
    low, high = (float(pick(0, pick([pick(e) for e in ends]))) for pick in (min, max))
    y = Axis(low, high if high > low else low + 1, height - 26, 18)
    x = Axis(0, len(row.low), _LEFT, WIDTH - _RIGHT)
    step = (x.end - x.start) / len(row.low)

    def bars(lows: F32, highs: F32, kind: str, share: float, when: str = "") -> list[str]:
        return [
            svg.rect(
                x(c + (1 - share) / 2), y(float(b)), step * share, y(float(a)) - y(float(b)), kind,
                hint=f"channel {c}{when}: {a:.4g} to {b:.4g}",
            )
            for c, (a, b) in enumerate(zip(lows, highs, strict=True))
        ]  # fmt: skip

    before = (
        bars(row.low_before, row.high_before, "before", 0.9, " before equalization")
        if row.changed
        else []
    )
    parts = [
        *_grid(x, y),
        *before,
        *bars(row.low, row.high, "bar", 0.45 if row.changed else 0.7),
        svg.line((x.start, y(0)), (x.end, y(0)), "axis"),
        svg.text(x.start, height - 8, "channel 0", "start", "soft"),
        svg.text(x.end, height - 8, f"{len(row.low) - 1}", "end", "soft"),
    ]
    return svg.figure(WIDTH, height, parts, f"Range of every channel of {row.name}")


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    for value in y.ticks(4):
        yield svg.line((x.start, y(value)), (x.end, y(value)), "grid")
        yield svg.text(x.start - 6, y(value) + 4, svg.short(value), "end", "soft")


def latencies(library: Latency, peers: Mapping[str, Latency]) -> str:
    """Median latency as bars, 10th to 90th percentile as whiskers; shorter is better."""
    rows: Sequence[tuple[str, Latency]] = [("this library", library), *peers.items()]
    height = 34 * len(rows) + 16
    x = Axis(0, max(t.p90_ms for _, t in rows), 160, WIDTH - 96)
    parts = []
    for i, (name, t) in enumerate(rows):
        top = 8 + 34 * i
        kind = "bar" if i == 0 else "bar soft-bar"
        parts += [
            svg.text(152, top + 15, name, "end"),
            svg.rect(x(0), top, x(t.median_ms) - x(0), 22, kind, radius=3),
            svg.line((x(t.p10_ms), top + 11), (x(t.p90_ms), top + 11), "whisker"),
            svg.text(x(t.p90_ms) + 8, top + 15, f"{t.median_ms:.1f} ms"),
        ]
    return svg.figure(WIDTH, height, parts, "Latency in milliseconds")
