"""Draws the curve of a training run as an SVG picture for the model card.

python -m models.curve models/runs/3x/curve.json models/bicubic_plusplus_3x.svg
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib.errors import DataError, WorkbenchError

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 90, 20, 50
_SERIES = (("y_db", "Y", "#0b6e99"), ("rgb_db", "RGB", "#c2410c"))


@dataclass(frozen=True)
class _Axis:
    """Maps values low..high to pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def to_svg(curve: Sequence[dict[str, float]]) -> str:
    """Held-out PSNR (RGB and Y, dB) over training steps; the same curve gives the same text.

    Raises:
        DataError: the curve has no point.
    """
    if not curve:
        raise DataError("the curve has no points", fix="train for at least one checkpoint")
    values = [point[key] for point in curve for key, *_ in _SERIES]
    x = _Axis(0, max(point["step"] for point in curve), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(
        math.floor(2 * min(values)) / 2, math.ceil(2 * max(values) + 0.01) / 2,
        _HEIGHT - _BOTTOM, _TOP,
    )  # fmt: skip
    grid = [_level(y, level / 2) for level in range(round(2 * y.low), round(2 * y.high) + 1)]
    marks = [_text(x(s), _HEIGHT - _BOTTOM + 18, f"{s:,.0f}", "middle") for s in _steps(x.high)]
    lines = [_line(curve, key, name, colour, x, y) for key, name, colour in _SERIES]
    labels = [_text(_WIDTH / 2, _HEIGHT - 8, "training steps", "middle"), _text(8, 12, "dB")]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            *grid,
            *marks,
            *labels,
            *lines,
            "</svg>\n",
        ]
    )


def _level(y: _Axis, value: float) -> str:
    line = f'<path d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
    return line + _text(_LEFT - 6, y(value) + 4, f"{value:.1f}", "end")


def _steps(last: float) -> list[float]:
    """About six round step counts up to the last."""
    power = 10 ** math.floor(math.log10(last / 5)) if last >= 5 else 1
    stride = next(power * m for m in (1, 2, 5, 10) if last / (power * m) <= 7)
    return [stride * i for i in range(int(last / stride) + 1)]


def _line(
    curve: Sequence[dict[str, float]], key: str, name: str, colour: str, x: _Axis, y: _Axis
) -> str:
    points = " ".join(f"{x(p['step']):.1f},{y(p[key]):.1f}" for p in curve)
    line = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
    end = curve[-1]
    return line + _text(x(end["step"]) + 6, y(end[key]) + 4, f"{name} {end[key]:.2f}", fill=colour)


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#444") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{text}</text>'


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.curve", description=__doc__)
    parser.add_argument("curve", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    try:
        options.picture.write_text(to_svg(_read(options.curve)))
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _read(path: Path) -> list[dict[str, float]]:
    try:
        curve: list[dict[str, float]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            "not a readable curve", where=str(path), fix="name the curve.json of a training run"
        ) from error
    return curve


if __name__ == "__main__":
    sys.exit(main())
