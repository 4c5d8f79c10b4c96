"""A few lines of SVG: axes, marks and text, for the pictures that the workbench draws.

Colours are CSS classes, so that a page with light and dark schemes decides them; `standalone` adds
a style of its own for a file that is opened alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

STYLE = """
:root{--ink:#1b1f24;--soft:#59636e;--line:#d1d9e0;--page:#fff;--a:#0b66c2;--b:#c2410c;--c:#1a7f37;
--d:#8250df;--fill:#ddf0ff}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa6b2;--line:#3d444d;--page:#0d1117;
--a:#58a6ff;--b:#ff9b5a;--c:#4ac26b;--d:#bc8cff;--fill:#12304f}}
svg{background:var(--page);font-family:system-ui,sans-serif}
"""
MARKS = """
svg text{fill:var(--ink);font-size:12px}svg .soft{fill:var(--soft)}
svg .grid{stroke:var(--line);fill:none}svg .axis{stroke:var(--soft);fill:none}
svg .a{stroke:var(--a)}svg .b{stroke:var(--b)}svg .c{stroke:var(--c)}svg .d{stroke:var(--d)}
svg .curve{fill:none;stroke-width:2}svg .dash{stroke-dasharray:5 4}
svg .dot-a{fill:var(--a)}svg .dot-b{fill:var(--b)}svg .dot-c{fill:var(--c)}svg .dot-d{fill:var(--d)}
svg .area{fill:var(--fill);stroke:none}svg .box{fill:var(--page);stroke:var(--soft)}
svg .ring{fill:var(--page);stroke-width:2}
"""


@dataclass(frozen=True)
class Axis:
    """Maps values low..high to pixels start..end, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values beyond the ends are drawn at them."""
        at = min(max(value, self.low), self.high)
        low, high, at = map(math.log if self.log else float, (self.low, self.high, at))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> tuple[float, ...]:
        """Round values on the axis: powers of ten where it is logarithmic."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return tuple(10.0**e for e in decades[:: max(1, -(-len(decades) // count))])
        span = self.high - self.low
        if span <= 0:
            return (self.low,)
        raw = span / count
        base = 10.0 ** math.floor(math.log10(raw))
        step = next(m * base for m in (1, 2, 2.5, 5, 10) if m * base >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(round(i * step, 12) for i in range(first, last + 1))


def number(value: float) -> str:
    """A coordinate: two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def short(value: float) -> str:
    """A tick's label: 1.5k, 20M, 0.03."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Words at a point; anchor is start, middle or end."""
    place = f'x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"'
    return f"<text {place}{_kind(kind)}>{escape(words)}</text>"


def line(a: Point, b: Point, kind: str) -> str:
    """A straight line."""
    (x1, y1), (x2, y2) = (map(number, point) for point in (a, b))
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"{_kind(kind)}/>'


def polyline(points: Iterable[Point], kind: str) -> str:
    """Connected points."""
    joined = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f'<polyline points="{joined}"{_kind(kind)}/>'


def rect(
    x: float, y: float, width: float, height: float, kind: str, *, hint: str = "", radius: int = 0
) -> str:
    """A rectangle; `hint` is shown where the pointer rests on it."""
    place = f'x="{number(x)}" y="{number(y)}" rx="{radius}"'
    size = f'width="{number(max(width, 0))}" height="{number(max(height, 0))}"'
    return f"<rect {place} {size}{_kind(kind)}{_hint(hint, 'rect')}"


def circle(x: float, y: float, radius: float, kind: str, hint: str = "") -> str:
    """A dot; `hint` is shown where the pointer rests on it."""
    place = f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"'
    return f"<circle {place}{_kind(kind)}{_hint(hint, 'circle')}"


def path(commands: str, kind: str) -> str:
    """A path of SVG commands."""
    return f'<path d="{commands}"{_kind(kind)}/>'


def axes(x: Axis, y: Axis, x_label: str, y_label: str, *, y_ticks: int = 5) -> str:
    """Grid lines, tick labels and titles; y pixels run from start (bottom) to end (top)."""
    parts = []
    for value in y.ticks(y_ticks):
        parts.append(line((x.start, y(value)), (x.end, y(value)), "grid"))
        parts.append(text(x.start - 6, y(value) + 4, short(value), "end", "soft"))
    for value in x.ticks():
        parts.append(line((x(value), y.start), (x(value), y.start + 5), "axis"))
        parts.append(text(x(value), y.start + 18, short(value), "middle", "soft"))
    parts.append(line((x.start, y.start), (x.end, y.start), "axis"))
    parts.append(text((x.start + x.end) / 2, y.start + 36, x_label, "middle", "soft"))
    parts.append(text(x.start, y.end - 8, y_label, "start", "soft"))
    return "".join(parts)


def figure(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """The picture, scaling to the width it is given; `title` is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" '
        f'role="img" aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def bars(rows: Sequence[tuple[str, float]], title: str, unit: str) -> str:
    """Horizontal bars, one a row, each with its label and its value; negative ones reach left."""
    step, left, width = 22, 8 + 7 * max((len(label) for label, _ in rows), default=0), 900
    values = [value for _, value in rows]
    x = Axis(min([0.0, *values]), max([0.0, *values]), left, width - 90)
    parts = [text(8, 20, f"{title} ({unit})")]
    for i, (label, value) in enumerate(rows):
        top = 34 + step * i
        start, end = sorted((x(0), x(value)))
        parts.append(text(left - 8, top + 12, label, "end", "soft"))
        parts.append(rect(start, top, end - start, step - 6, "dot-a", radius=2))
        parts.append(text(end + 6, top + 12, f"{value:.4f}"))
    parts.append(line((x(0), 30), (x(0), 30 + step * len(rows)), "axis"))
    return figure(width, 44 + step * len(rows), parts, title)


def standalone(picture: str) -> str:
    """The picture as a file of its own, light and dark."""
    head, _, rest = picture.partition(">")
    return f"{head}><style>{STYLE}{MARKS}</style>{rest}\n"


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _hint(hint: str, element: str) -> str:
    return f"><title>{escape(hint)}</title></{element}>" if hint else "/>"
