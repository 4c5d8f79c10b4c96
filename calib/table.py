"""The calibration table: per tensor the range that a method chose, and the scale that follows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from calib import qparams
from calib.errors import CalibrationError
from calib.histogram import Histogram
from calib.methods import Method
from calib.qparams import F32, INT8_MAX, INT8_MIN, QParams

LOSSLESS, BYTES = "lossless", "bytes"  # the methods of `of_bytes`, in tables
_ON_A_STEP = 0.02  # of a step: rounding of binary32 on the way is far below
VISIBLE_CLIPPING = 0.001  # fraction of a tensor's values
MOVING_THRESHOLD = 0.1  # relative change between the two halves of a set


@dataclass(frozen=True)
class TensorCalibration:
    """What calibration found for one tensor; every float is a binary32 value.

    Attributes:
        method: name of the calibration method.
        min, max: smallest and largest value seen.
        low, high: the range chosen, -T and T where it is symmetric.
        threshold: max(|low|, |high|), the T of symmetric ranges.
        scale, zero_point: what follows for int8 (`calib.qparams`).
        clipped_fraction: share of the values outside [low, high].
    """

    method: str
    min: float
    max: float
    low: float
    high: float
    threshold: float
    scale: float
    zero_point: int
    clipped_fraction: float

    @property
    def qparams(self) -> QParams:
        """Scale and zero point."""
        return QParams(self.scale, self.zero_point)


@dataclass(frozen=True)
class CalibrationTable:
    """Calibration by tensor name."""

    tensors: Mapping[str, TensorCalibration]

    def __getitem__(self, name: str) -> TensorCalibration:
        if name not in self.tensors:
            raise CalibrationError(
                f"the calibration table has no tensor {name}",
                fix="calibrate again; the table belongs to another network",
            )
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.tensors))

    def __len__(self) -> int:
        return len(self.tensors)

    def to_json(self) -> str:
        """An object by tensor name, names sorted; floats round-trip; same table, same bytes."""
        return json.dumps({n: asdict(self.tensors[n]) for n in self}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "") -> CalibrationTable:
        """Inverse of `to_json`.

        Args:
            where: path of the text, for errors.
        Raises:
            CalibrationError: not JSON, or not such a table.
        """
        keys = {f.name for f in fields(TensorCalibration)}
        try:
            raw = json.loads(text)
            if bad := [name for name, entry in raw.items() if set(entry) != keys]:
                raise ValueError(f"tensor {bad[0]} needs exactly {', '.join(sorted(keys))}")
            return cls({name: TensorCalibration(**entry) for name, entry in raw.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise CalibrationError(
                f"not a calibration table: {error}", where=where, fix="build the bundle again"
            ) from error


def calibrate(hist: Histogram, method: Method, symmetric: bool) -> TensorCalibration:
    """The range that `method` chooses for a tensor and its scale and zero point.

    Args:
        symmetric: whether the target's activations have no zero point.
    Raises:
        CalibrationError: the histogram is empty.
    """
    if hist.total == 0:
        raise CalibrationError("nothing was counted", fix="give at least one calibration image")
    low, high = (float(np.float32(end)) for end in method.range(hist, symmetric))
    return from_range(hist, low, high, method.name, symmetric)


def from_range(
    hist: Histogram, low: float, high: float, method: str, symmetric: bool
) -> TensorCalibration:
    """The calibration of a tensor to a given range [low, high] (low = -high where symmetric)."""
    q = _qparams(low, high, symmetric)
    return TensorCalibration(
        method=method,
        min=hist.low,
        max=hist.high,
        low=low,
        high=high,
        threshold=max(-low, high),
        scale=q.scale,
        zero_point=q.zero_point,
        clipped_fraction=_clipped_fraction(hist, low, high),
    )


def _qparams(low: float, high: float, symmetric: bool) -> QParams:
    return qparams.symmetric(high) if symmetric else qparams.asymmetric(low, high)


def of_bytes(hist: Histogram, values: F32, symmetric: bool) -> TensorCalibration:
    """The calibration of an 8-bit image: its range is known, whatever the images seen.

    A method would estimate it, and clip black or white where the set has little of them. 256
    values with equal steps between them may even be integers of int8: with that step for the scale
    nothing is lost, while a threshold a little higher or lower would round nearly every pixel.

    Args:
        values: what the network makes of every byte, binary32 [C, 256].
    """
    if is_lossless(values, symmetric):
        exact = from_range(hist, *_even_range(values, symmetric), LOSSLESS, symmetric)
        return replace(exact, clipped_fraction=0.0)
    low, high = float(values.min()), float(values.max())
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    return from_range(hist, min(low, 0.0), max(high, 0.0), BYTES, symmetric)


def is_lossless(values: F32, symmetric: bool) -> bool:
    """Whether every byte is an integer of int8 where the step between bytes is the scale.

    Args:
        values: what the network makes of every byte, binary32 [C, 256].
    """
    if not values[0, -1] > values[0, 0]:
        return False
    low, high = _even_range(values, symmetric)
    q = _qparams(low, high, symmetric)
    steps = values.astype(np.float64) / q.scale
    integers = np.rint(steps) + q.zero_point
    exact = np.abs(steps - np.rint(steps)).max() < _ON_A_STEP
    return bool(exact and integers.min() >= INT8_MIN and integers.max() <= INT8_MAX)


def _even_range(values: F32, symmetric: bool) -> tuple[float, float]:
    """The range whose scale is the step between two bytes."""
    step = float(values[0, -1] - values[0, 0]) / (values.shape[1] - 1)
    low, high = -INT8_MAX * step, INT8_MAX * step
    if not symmetric:
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return float(np.float32(low)), float(np.float32(high))


def _clipped_fraction(hist: Histogram, low: float, high: float) -> float:
    """Share of the values outside [low, high]; a bin cut by an end counts in proportion."""
    if hist.limit == 0:
        return 0.0
    half = len(hist.counts) // 2
    ends = np.clip(np.array([max(low, hist.low), min(high, hist.high)]) / hist.width, -half, half)
    cumulated = np.concatenate([[0], np.cumsum(hist.counts)])
    below = np.interp(ends + half, np.arange(len(cumulated)), cumulated)
    below = np.where([low <= hist.low, high >= hist.high], [0, hist.total], below)
    return float(1 - (below[1] - below[0]) / hist.total)


def warnings(
    table: CalibrationTable, halves: tuple[CalibrationTable, CalibrationTable] | None
) -> tuple[str, ...]:
    """Reasons to doubt a calibration, one sentence each, by tensor name.

    Args:
        table: the calibration that will be used.
        halves: the same from the even-numbered and from the odd-numbered images alone, with the
            edges of all images; None where there is a single image.
    """
    found = []
    for name in table:
        t = table[name]
        if t.clipped_fraction > VISIBLE_CLIPPING:
            found.append(
                f"{name}: {t.method} clips {100 * t.clipped_fraction:.2g} % of the values visibly; "
                "raise calibrate_range or use another calibrate_mode"
            )
        if halves and (change := _change(halves[0][name], halves[1][name])) > MOVING_THRESHOLD:
            found.append(
                f"{name}: the set is too small, its threshold still moves: {100 * change:.0f} % "
                "between two halves of the images; calibrate on more images"
            )
    if not halves:
        found.append("one image cannot show whether the thresholds have settled; calibrate on more")
    return tuple(found)


def _change(a: TensorCalibration, b: TensorCalibration) -> float:
    """Relative difference of the two ranges' widths."""
    wide = max(a.high - a.low, b.high - b.low)
    return abs((a.high - a.low) - (b.high - b.low)) / wide if wide > 0 else 0.0
