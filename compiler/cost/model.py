"""What a schedule costs: the time and traffic of its parts, and which figures are assumed.

Time is the roofline's: max(compute, memory), both at their peak (S. Williams et al., "Roofline",
CACM 52(4), 2009). The vendor publishes no bandwidth and no on-chip memory: figures that rest on
such an entry of the target file are marked `assumed` wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from compiler.cost.hardware import NEEDED, Die

Bound = Literal["compute", "memory"]

# What each figure of a schedule is computed from: entries of the target's `hardware`.
_RATE, _BANDWIDTH = ("int8_tops", "dies"), ("bandwidth_gbs", "dies")
RESTS_ON: Mapping[str, tuple[str, ...]] = {
    "compute_ms": _RATE,
    "memory_ms": _BANDWIDTH,
    "ms": (*_RATE, *_BANDWIDTH),
    "bound": (*_RATE, *_BANDWIDTH),
    "utilization": (*_RATE, *_BANDWIDTH),
}
ON_CHIP = ("on_chip_mb", "dies")  # decides where a fused schedule is cut, hence its bytes


@dataclass(frozen=True)
class Part:
    """One operator, or one fused segment, on one image.

    Attributes:
        layers: names of the operators in it.
        in_bytes, out_bytes: activations read from and written to memory.
        weight_bytes: weights read from memory, shared by the images of a batch.
        on_chip_bytes: weights and rows that it keeps on chip.
    """

    layers: tuple[str, ...]
    macs: int
    in_bytes: int
    out_bytes: int
    weight_bytes: float
    on_chip_bytes: int
    compute_ms: float
    memory_ms: float

    @property
    def name(self) -> str:
        """The operator, or the first and last of the segment."""
        return self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]} .. {self.layers[-1]}"

    @property
    def bytes(self) -> float:
        """All bytes moved."""
        return self.in_bytes + self.out_bytes + self.weight_bytes

    @property
    def ms(self) -> float:
        """Compute and memory overlap: the longer of the two."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def bound(self) -> Bound:
        """Which of the two is the longer."""
        return "compute" if self.compute_ms >= self.memory_ms else "memory"

    @property
    def utilization(self) -> float:
        """Share of the time in which the multipliers work, 0 to 1."""
        return self.compute_ms / self.ms if self.ms else 0.0

    @property
    def intensity(self) -> float:
        """Multiply-accumulates a byte moved."""
        return self.macs / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Schedule:
    """Parts that run one after another."""

    parts: tuple[Part, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(part.macs for part in self.parts)

    @property
    def in_bytes(self) -> int:
        """Activations read from memory."""
        return sum(part.in_bytes for part in self.parts)

    @property
    def out_bytes(self) -> int:
        """Activations written to memory."""
        return sum(part.out_bytes for part in self.parts)

    @property
    def weight_bytes(self) -> float:
        """Weights read from memory."""
        return sum(part.weight_bytes for part in self.parts)

    @property
    def on_chip_bytes(self) -> int:
        """What the part that keeps most on chip keeps there."""
        return max(part.on_chip_bytes for part in self.parts)

    @property
    def bytes(self) -> float:
        """All bytes moved for one image."""
        return sum(part.bytes for part in self.parts)

    @property
    def compute_ms(self) -> float:
        """Time of the multiplications alone."""
        return sum(part.compute_ms for part in self.parts)

    @property
    def memory_ms(self) -> float:
        """Time of the data movement alone."""
        return sum(part.memory_ms for part in self.parts)

    @property
    def ms(self) -> float:
        """Time of one image on one die."""
        return sum(part.ms for part in self.parts)

    @property
    def bound(self) -> Bound:
        """What most of the time is spent on."""
        memory = sum(part.ms for part in self.parts if part.bound == "memory")
        return "memory" if 2 * memory > self.ms else "compute"

    @property
    def utilization(self) -> float:
        """Share of the time in which the multipliers work, 0 to 1."""
        return self.compute_ms / self.ms if self.ms else 0.0


@dataclass(frozen=True)
class Cost:
    """A network on one die of a target, in both schedules."""

    name: str
    target: str
    macs: int
    batch: int
    die: Die
    layer_by_layer: Schedule
    fused: Schedule

    @property
    def assumed(self) -> tuple[str, ...]:
        """Entries of the target file that are assumed, and that figures here rest on."""
        return self.die.assumed(NEEDED)

    def is_assumed(self, figure: str, *, fused: bool = False) -> bool:
        """Whether a figure of a schedule rests on an assumed entry.

        Args:
            figure: a field or property of `Part`.
        """
        entries = RESTS_ON.get(figure, ())
        if fused and figure not in ("macs", "compute_ms"):
            entries = (*entries, *ON_CHIP)
        return bool(self.die.assumed(entries))

    def to_json(self) -> dict[str, Any]:
        """Both schedules; `assumed` names the figures beside it that rest on assumptions."""
        return {
            "name": self.name,
            "target": self.target,
            "batch": self.batch,
            "macs": self.macs,
            "hardware": {k: f.model_dump() for k, f in self.die.figures.items()},
            "layer_by_layer": self._schedule(self.layer_by_layer, fused=False),
            "fused": self._schedule(self.fused, fused=True),
        }

    def _schedule(self, schedule: Schedule, *, fused: bool) -> dict[str, Any]:
        totals = ("bytes", "compute_ms", "memory_ms", "ms", "bound", "utilization")
        extra = ("bytes", "ms", "bound", "utilization")
        return {
            **{key: getattr(schedule, key) for key in totals},
            "frames_per_s_card": self.frames_per_s(schedule),
            "assumed": [
                *(key for key in totals if self.is_assumed(key, fused=fused)),
                *(["frames_per_s_card"] if self.is_assumed("ms", fused=fused) else []),
            ],
            "parts": [
                asdict(part)
                | {key: getattr(part, key) for key in extra}
                | {
                    "assumed": [
                        key
                        for key in (*Part.__dataclass_fields__, *extra)
                        if key != "layers" and self.is_assumed(key, fused=fused)
                    ]
                }
                for part in schedule.parts
            ],
        }

    def frames_per_s(self, schedule: Schedule) -> float:
        """Images a second of the whole card, each die on images of its own."""
        return self.die.dies * 1e3 / schedule.ms if schedule.ms else 0.0
