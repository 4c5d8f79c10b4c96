"""Latency of a callable: medians and percentiles over repeated runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

Track: TypeAlias = Callable[[range], Iterable[int]]  # the rounds themselves, shown as they pass


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call, over `runs` calls."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        """The object of latency.json."""
        return {k: round(v, 3) if k != "runs" else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Latency:
        """Inverse of `to_json`; further keys are left alone."""
        median, p10, p90 = (float(value[key]) for key in ("median_ms", "p10_ms", "p90_ms"))
        return cls(median, p10, p90, int(value["runs"]))


def measure(
    calls: Mapping[str, Callable[[], object]],
    runs: int,
    warmup: int = 2,
    track: Track = iter,
    settle_s: float = 0,
) -> dict[str, Latency]:
    """Times several callables in turn, A B C A B C, so that drift of the machine hits all alike.

    Args:
        track: passes the rounds on; must do nothing while one of them runs.
        settle_s: how long a callable runs untimed before each timed call, for callables with
            threads of their own: those of one, idle, may still spin on a core of the next.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in track(range(runs)):
        for name, call in calls.items():
            until = time.perf_counter() + settle_s
            while time.perf_counter() < until:
                call()
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: _latency(samples) for name, samples in times.items()}


def _latency(samples_ms: Sequence[float]) -> Latency:
    p10, median, p90 = np.percentile(samples_ms, [10, 50, 90])
    return Latency(float(median), float(p10), float(p90), len(samples_ms))
