"""Two bundles compared: spec, scales, weights, accuracy, latency, digests; and stated limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from calib.errors import DataError
from compiler.accuracy import METRICS
from compiler.diff.side import Side
from compiler.metrics import bootstrap_ci95
from compiler.network import Conv

_ABSENT: Final = "-"


@dataclass(frozen=True)
class ValueChange:
    """A value under a key: of the spec, of the tools, a digest. "-" where one side lacks it."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ScaleChange:
    """The scale of one rounding point.

    Attributes:
        relative: b / a - 1; None where one side lacks the tensor.
    """

    tensor: str
    a: float | None
    b: float | None
    relative: float | None


@dataclass(frozen=True)
class WeightChange:
    """The integers of one layer.

    Attributes:
        values: how many weights there are; None for the rest where the shapes differ.
        changed: how many of the int8 weights differ.
        largest_step: largest difference of two int8 weights.
        scales: largest relative change of a channel's weight scale.
        biases: how many int32 biases differ.
    """

    layer: str
    values: int
    changed: int | None
    largest_step: int | None
    scales: float | None
    biases: int | None


@dataclass(frozen=True)
class ScoreChange:
    """int8 scores of b minus those of a, image by image.

    Attributes:
        low, high: 95 % bootstrap interval of the mean; None where the images differ, and the means
            of two sets are compared.
        drop: change of the mean drop against fp32, b - a.
    """

    metric: str
    a: float
    b: float
    change: float
    low: float | None
    high: float | None
    drop: float


@dataclass(frozen=True)
class LatencyChange:
    """Median latency; `comparable` on the same processor and input only."""

    a_ms: float
    b_ms: float
    percent: float
    comparable: bool


@dataclass(frozen=True)
class Limits:
    """What counts as a regression of b against a; None: anything goes."""

    drop_db: float | None = None
    ssim_drop: float | None = None
    slowdown_percent: float | None = None


@dataclass(frozen=True)
class Difference:
    """The whole answer.

    Attributes:
        paired: whether both bundles were verified on the same images.
        regressions: each limit that is passed, in words.
    """

    a: str
    b: str
    spec: tuple[ValueChange, ...]
    tools: tuple[ValueChange, ...]
    files: tuple[ValueChange, ...]
    scales: tuple[ScaleChange, ...]
    weights: tuple[WeightChange, ...]
    paired: bool
    accuracy: tuple[ScoreChange, ...]
    latency: LatencyChange | None
    regressions: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every deterministic file is the same."""
        return not self.files

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self) | {"same": self.same}


def compare(a: Side, b: Side, limits: Limits) -> Difference:
    """What changed from a to b.

    Raises:
        DataError: a limit cannot be judged: other images, another machine, nothing measured.
    """
    paired = same_images(a, b)
    accuracy = tuple(score_changes(a, b, paired=paired))
    latency = latency_change(a, b)
    return Difference(
        a=str(a.path),
        b=str(b.path),
        spec=value_changes(flat(a.spec), flat(b.spec)),
        tools=value_changes(flat(_origin(a)), flat(_origin(b))),
        files=value_changes(a.manifest["files"], b.manifest["files"]),
        scales=scale_changes(a, b),
        weights=weight_changes(a, b),
        paired=paired,
        accuracy=accuracy,
        latency=latency,
        regressions=tuple(_regressions(limits, paired, accuracy, latency)),
    )


def _origin(side: Side) -> dict[str, Any]:
    """What a bundle was made with and from, beside its spec."""
    manifest = side.manifest
    return {
        "model sha256": manifest["model"]["sha256"],
        "calibrated on": manifest["calibration"],
        "host": manifest["host"],
        "tools": manifest["tools"],
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay whole."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def value_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[ValueChange, ...]:
    """Keys whose values differ, in the order of their names."""
    keys = sorted(a.keys() | b.keys())
    pairs = ((key, a.get(key, _ABSENT), b.get(key, _ABSENT)) for key in keys)
    return tuple(ValueChange(key, x, y) for key, x, y in pairs if x != y)


def scale_changes(a: Side, b: Side) -> tuple[ScaleChange, ...]:
    """Scales that differ, the largest relative change first; tensors of one side before them."""
    found = []
    for name in sorted({*a.table, *b.table}):
        x, y = (side.table[name].scale if name in set(side.table) else None for side in (a, b))
        if x != y:
            relative = y / x - 1 if x is not None and y is not None else None
            found.append(ScaleChange(name, x, y, relative))
    size = {c.tensor: float("inf") if c.relative is None else abs(c.relative) for c in found}
    return tuple(sorted(found, key=lambda c: (-size[c.tensor], c.tensor)))


def weight_changes(a: Side, b: Side) -> tuple[WeightChange, ...]:
    """Layers whose integers differ, in network order; those of one side only at the end."""
    before, after = ({conv.name: conv for conv in side.net.convs} for side in (a, b))
    found = [_weights(x, after[name]) for name, x in before.items() if name in after]
    lonely = [conv for name, conv in (before | after).items() if name not in before.keys() & after]
    alone = [WeightChange(c.name, int(c.weight.size), None, None, None, None) for c in lonely]
    return (*(change for change in found if change is not None), *alone)


def _weights(a: Conv, b: Conv) -> WeightChange | None:
    size = int(b.weight.size)
    if a.weight.shape != b.weight.shape:
        return WeightChange(b.name, size, None, None, None, None)
    steps = np.abs(a.weight.astype(np.int16) - b.weight.astype(np.int16))
    scales = float(np.abs(b.weight_scale.astype(np.float64) / a.weight_scale - 1).max())
    biases = int(np.count_nonzero(a.bias != b.bias))
    changed = int(np.count_nonzero(steps))
    if not changed and not scales and not biases:
        return None
    return WeightChange(b.name, size, changed, int(steps.max()), scales, biases)


def same_images(a: Side, b: Side) -> bool:
    """Whether both were verified on the same images, by name, protocol and score of bicubic.

    Plain bicubic depends on no build: equal scores mean equal pictures.
    """
    if a.accuracy["protocol"] != b.accuracy["protocol"] or a.scores.keys() != b.scores.keys():
        return False
    return all(
        value == b.scores[image].get(column)
        for image, columns in a.scores.items()
        for column, value in columns.items()
        if column.startswith("bicubic")
    )


def score_changes(a: Side, b: Side, *, paired: bool) -> Iterator[ScoreChange]:
    """Every metric that both sides have."""
    for metric in METRICS:
        mine, theirs = (_column(side, f"int8_{metric}") for side in (a, b))
        if not mine or not theirs:
            continue
        drops = [
            float(np.mean([_column(side, f"fp32_{metric}")]) - np.mean(column))
            for side, column in ((a, mine), (b, theirs))
        ]
        before, after = (float(np.mean(column)) for column in (mine, theirs))
        gaps = [y - x for x, y in zip(mine, theirs, strict=True)] if paired else []
        low, high = bootstrap_ci95(gaps, a.seed) if paired else (None, None)
        change = float(np.mean(gaps)) if paired else after - before
        yield ScoreChange(metric, before, after, change, low, high, drops[1] - drops[0])


def _column(side: Side, column: str) -> list[float]:
    """One column of the scores, in the order of the images' names; empty where not measured."""
    return [row[column] for _, row in sorted(side.scores.items()) if column in row]


def latency_change(a: Side, b: Side) -> LatencyChange | None:
    """Median latencies of both builds; None where one was not measured."""
    if a.latency is None or b.latency is None:
        return None
    both = (a.latency, b.latency)
    before, after = (float(x["library"]["median_ms"]) for x in both)
    places = [(x["machine"]["processor"], x["machine"]["cpus"], x["input_shape"]) for x in both]
    return LatencyChange(before, after, 100 * (after / before - 1), places[0] == places[1])


def _regressions(
    limits: Limits,
    paired: bool,
    accuracy: tuple[ScoreChange, ...],
    latency: LatencyChange | None,
) -> Iterator[str]:
    changes = {score.metric: score.change for score in accuracy}
    for metric, limit, unit in (
        ("psnr_rgb_db", limits.drop_db, " dB"),
        ("ssim_rgb", limits.ssim_drop, ""),
    ):
        if limit is None:
            continue
        if not paired:
            raise _unjudged(
                "the bundles were verified on different images",
                "verify both on the same images: the same verify: block, then build again",
            )
        if -changes[metric] > limit:
            name = metric.partition("_")[0].upper()
            yield f"{name} falls by {-changes[metric]:.4f}{unit}, more than {limit:g}{unit}"
    if limits.slowdown_percent is not None:
        if latency is None or not latency.comparable:
            what = "was not measured" if latency is None else "is of two machines or two sizes"
            raise _unjudged(f"latency {what}", "build both on one machine, at one frontend.shape")
        if latency.percent > limits.slowdown_percent:
            yield (
                f"a frame takes {latency.percent:.1f} % longer, more than "
                f"{limits.slowdown_percent:g} %"
            )


def _unjudged(why: str, fix: str) -> DataError:
    return DataError(f"a limit cannot be judged: {why}", fix=f"{fix}; or leave the limit out")
