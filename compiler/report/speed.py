"""The report's two places about speed, which a later measurement replaces.

`bench` may run after a build, with peers and layers. Each place stands between two comments in the
page, so that `refresh` can write it anew without the rest of what the build knew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compiler.errors import BundleError
from compiler.latency import Latency
from compiler.report import plots
from compiler.report.template import template

PLACES = ("frame", "speed")


@dataclass(frozen=True)
class LayerSpeed:
    """One operator alone, as `bench --layers` measures it."""

    name: str
    kernel: str
    median_ms: float
    gmacs_per_s: float


@dataclass(frozen=True)
class Speed:
    """Latencies of one interleaved run.

    Attributes:
        machine: the processor, or the system where it is unknown.
        shape: of the input, 1x3x1080x1920.
    """

    machine: str
    isa: str
    threads: int
    shape: str
    library: Latency
    peers: Mapping[str, Latency]
    layers: tuple[LayerSpeed, ...]

    @classmethod
    def of(cls, figures: Mapping[str, Any], host: Mapping[str, Any]) -> Speed:
        """From the object of measured/latency.json, which is also that of `bench --json`.

        Args:
            host: of the bundle's manifest; stands in where the figures name no threads.
        Raises:
            ValueError, KeyError, TypeError: not such an object.
        """
        machine = figures["machine"]
        return cls(
            machine=machine["processor"] or machine["system"],
            isa=machine.get("isa", host["isa"]),
            threads=machine.get("threads", host["threads"]),
            shape="x".join(map(str, figures["input_shape"])),
            library=Latency.from_json(figures["library"]),
            peers={name: Latency.from_json(v) for name, v in figures["peers"].items()},
            layers=tuple(
                LayerSpeed(v["name"], v["kernel"], v["median_ms"], v["gmacs_per_s"])
                for v in figures.get("layers", ())
            ),
        )


def render(place: str, speed: Speed) -> Markup:
    """One of `PLACES` as HTML, between its comments."""
    chart = Markup(plots.latencies(speed.library, speed.peers))
    body = template(f"{place}.html").render(speed=speed, chart=chart)
    return Markup(f"<!-- {place} -->{body}<!-- end of {place} -->")


def refresh(page: str, speed: Speed) -> str:
    """The page with new figures; nothing else changes.

    Raises:
        BundleError: the page has no such places.
    """
    for place in PLACES:
        pattern = re.compile(f"<!-- {place} -->.*?<!-- end of {place} -->", re.DOTALL)
        parts = pattern.split(page)
        if len(parts) != 2:
            raise BundleError(
                "the report is of another version", where="report.html", fix="build it again"
            )
        page = str(render(place, speed)).join(parts)
    return page
