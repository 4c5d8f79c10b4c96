"""The cost model: what a network should cost on the accelerator, from the target's figures.

Two schedules are estimated for one die:

* layer by layer: every operator reads its inputs and weights from memory and writes its output;
* fused: consecutive operators run depth-first, a few rows at a time, as long as their weights and
  the rows that are still needed fit the on-chip memory; only what crosses such a segment moves.

Time is the roofline's: max(compute, memory), both at their peak (S. Williams et al., "Roofline",
CACM 52(4), 2009). The vendor publishes no bandwidth and no on-chip memory: figures that rest on
such an entry of the target file are marked `assumed` wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from compiler.cost.workload import Work, Workload
from compiler.errors import SpecError
from compiler.target import Figure

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
NEEDED = ("int8_tops", "dies", "bandwidth_gbs", "on_chip_mb")


@dataclass(frozen=True)
class Die:
    """One die: the card's figures divided by its dies.

    Attributes:
        figures: the entries of `hardware` that the rest was computed from.
    """

    macs_per_s: float
    bytes_per_s: float
    on_chip_bytes: float
    dies: int
    figures: Mapping[str, Figure] = field(hash=False)

    @property
    def ridge(self) -> float:
        """Multiply-accumulates a byte at which compute and memory take equally long."""
        return self.macs_per_s / self.bytes_per_s

    def assumed(self, entries: Iterable[str]) -> tuple[str, ...]:
        """Those of the named entries that the vendor does not publish."""
        return tuple(dict.fromkeys(e for e in entries if self.figures[e].assumed))


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


def die(hardware: Mapping[str, Figure]) -> Die:
    """One die of a card.

    Args:
        hardware: of the target file: figures of the card, and how many equal dies share them.
    Raises:
        SpecError: a figure is missing or not positive.
    """
    for name in NEEDED:
        if name not in hardware or not hardware[name].value > 0:
            raise SpecError(
                f"the cost model needs a positive hardware.{name}",
                where="target file",
                key=f"hardware.{name}",
                fix=f"add it to the target file, or say --set hardware.{name}=VALUE",
            )
    dies = hardware["dies"].value
    return Die(
        macs_per_s=hardware["int8_tops"].value * 1e12 / 2 / dies,
        bytes_per_s=hardware["bandwidth_gbs"].value * 1e9 / dies,
        on_chip_bytes=hardware["on_chip_mb"].value * 1e6 / dies,
        dies=int(dies),
        figures={name: hardware[name] for name in NEEDED},
    )


def estimate(load: Workload, hardware: Mapping[str, Figure], target: str, batch: int = 1) -> Cost:
    """The cost of one image in both schedules.

    Args:
        batch: images that share one reading of the weights.
    """
    unit = die(hardware)
    segments = [_Segment(load, works) for works in _segments(load, unit.on_chip_bytes)]
    alone = [_Segment(load, (work,)) for work in load.works]
    layers, fused = (Schedule(tuple(s.part(unit, batch) for s in x)) for x in (alone, segments))
    return Cost(load.name, target, load.macs, batch, unit, layers, fused)


def _segments(load: Workload, on_chip_bytes: float) -> Iterator[tuple[Work, ...]]:
    """Cuts the operators, in order, into the longest runs that fit the on-chip memory.

    An operator that does not fit alone is a run of its own, at the traffic of an ideal tiling.
    """
    run: tuple[Work, ...] = ()
    for work in load.works:
        longer = (*run, work)
        if run and _Segment(load, longer).on_chip_bytes > on_chip_bytes:
            yield run
            longer = (work,)
        run = longer
    yield run


@dataclass(frozen=True)
class _Segment:
    """Consecutive operators that run depth-first, a row at a time."""

    load: Workload
    works: tuple[Work, ...]

    @property
    def _made(self) -> tuple[str, ...]:
        return tuple(work.output for work in self.works)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Tensors that come from memory."""
        made = self._made
        return tuple(dict.fromkeys(n for w in self.works for n in w.inputs if n not in made))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Tensors that others need, or that are the network's output."""
        inside = {work.name for work in self.works}
        needed = {n for w in self.load.works if w.name not in inside for n in w.inputs}
        return tuple(n for n in self._made if n in needed or n == self.load.output)

    @property
    def on_chip_bytes(self) -> int:
        """Weights, and the rows of every tensor that a later output row still needs.

        Rows are produced in step. An operator that looks `ahead` rows down waits for them, and so
        does all that follows; a residual is kept until the main path has caught up.
        """
        features = self.load.features
        delay = dict.fromkeys(self.inputs, 0.0)  # in heights of the image
        rows = dict.fromkeys((*self.inputs, *self._made), 1.0)
        for work in self.works:
            first = work.inputs[0]
            delay[work.output] = max(
                delay[n] + (work.ahead / features[n].rows if n == first else 0) for n in work.inputs
            )
            for name in work.inputs:
                lag = (delay[work.output] - delay[name]) * features[name].rows
                held = lag + (work.before if name == first else 0) + 1
                rows[name] = max(rows[name], held)
        kept = (features[n].bytes * min(1.0, count / features[n].rows) for n, count in rows.items())
        return sum(work.weight_bytes for work in self.works) + round(sum(kept))

    def part(self, unit: Die, batch: int) -> Part:
        """Its cost on one die."""
        features = self.load.features
        macs = sum(work.macs for work in self.works)
        into = sum(features[name].bytes for name in self.inputs)
        out = sum(features[name].bytes for name in self.outputs)
        weights = sum(work.weight_bytes for work in self.works) / batch
        return Part(
            layers=tuple(work.name for work in self.works),
            macs=macs,
            in_bytes=into,
            out_bytes=out,
            weight_bytes=weights,
            on_chip_bytes=self.on_chip_bytes,
            compute_ms=macs / unit.macs_per_s * 1e3,
            memory_ms=(into + out + weights) / unit.bytes_per_s * 1e3,
        )
