"""What depends on the clock and the machine: the figures that a bundle keeps in measured/."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler import bundle, latency, runner, store
from compiler.engine import Engine
from compiler.latency import Latency
from compiler.network import Network, Size

RUNS = 15


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times the block; one that fails leaves no time."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def input_for(net: Network, size: Size) -> NDArray[Any]:
    """Random input of the network's kind."""
    x = runner.random_input(net.input_tensor.channels, *size, seed=0)
    if net.input_tensor.kind == "float32":
        return x
    frame: NDArray[Any] = np.rint(x[0].transpose(1, 2, 0)[None] * 255).astype(np.uint8, order="C")
    return frame


def library_latency(engine: Engine) -> Latency:
    """Latency of the main library on random input of the spec's shape."""
    net, size = engine.main_net, engine.main_size
    x, library = input_for(net, size), engine.library(net, size)
    return latency.measure({"library": lambda: library(x)}, RUNS)["library"]


def latency_figures(
    engine: Engine, library: Mapping[str, Any], peers: Mapping[str, Latency]
) -> dict[str, Any]:
    """The object of latency.json, and of `bench --json`.

    Args:
        library: the latency of the library as JSON, and what else was measured of it.
    """
    return {
        "machine": bundle.machine() | {"isa": engine.host.isa, "threads": engine.host.threads},
        "input_shape": engine.spec.frontend.dims,
        "library": dict(library),
        "peers": {name: t.to_json() for name, t in peers.items()},
    }


def timing_json(seconds: Mapping[str, float]) -> str:
    """The text of timing.json: seconds by stage, and the memory that the build took at most."""
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {
        "seconds": {stage: round(s, 2) for stage, s in seconds.items()},
        "peak_memory_bytes": peak_kib * 1024,
    }
    return store.json_text(report)
