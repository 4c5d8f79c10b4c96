"""Two schedules of a workload on a die: layer by layer, and fused.

* layer by layer: every operator reads its inputs and weights from memory and writes its output;
* fused: consecutive operators run depth-first, a few rows at a time, as long as their weights and
  the rows that are still needed fit the on-chip memory; only what crosses such a segment moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compiler.cost.hardware import Die, die
from compiler.cost.model import Cost, Part, Schedule
from compiler.cost.workload import Work, Workload, workload
from compiler.floatnet import FloatNetwork
from compiler.schema import Spec
from compiler.target import Figure


def of_spec(net: FloatNetwork, spec: Spec, hardware: Mapping[str, Figure], target: str) -> Cost:
    """The cost of a network at the shape and element types of a spec; else as `estimate`."""
    kinds = spec.backend.input.dtype, spec.backend.output.dtype
    load = workload(net, spec.frontend.size, input_kind=kinds[0], output_kind=kinds[1])
    return estimate(load, hardware, target)


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
