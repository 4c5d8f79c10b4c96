"""Schedules are simulated: every row that is read exists, is current and not overwritten yet."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.kernels.schedule import Read, Schedule, Stage, plan


def simulate(stages: list[Stage], schedule: Schedule, first: int, last: int) -> set[int]:
    """Runs blocks [first, last) of a band; the rows of the last stage that are computed rightly.

    A ring slot holds the row written to it last; a row is right when every row it reads is right.
    """
    rings: dict[str, dict[int, int]] = {t: {} for t in schedule.rings}
    right: dict[str, set[int]] = {name: set() for stage in stages for name in stage.outputs}
    begin = min(s.begin for s in schedule.slots)
    end = max(s.end for s in schedule.slots)
    for k in range(first + begin, last + end):
        for stage, slot in zip(stages, schedule.slots, strict=True):
            if not first + slot.begin <= k < last + slot.end:
                continue
            for y in range(k * slot.rows - slot.lag, (k + 1) * slot.rows - slot.lag):
                ok = all(
                    row in right[r.tensor] and rings[r.tensor].get(row % len_of(schedule, r)) == row
                    for r in stage.reads
                    if r.tensor in rings
                    for row in range(y * r.stride - r.pad, y * r.stride - r.pad + r.span)
                )
                for out in range(y * stage.up, (y + 1) * stage.up):
                    for name in stage.outputs:
                        if name in rings:
                            rings[name][out % schedule.rings[name]] = out
                        (right[name].add if ok else right[name].discard)(out)
    return right[stages[-1].output]


def len_of(schedule: Schedule, read: Read) -> int:
    return schedule.rings[read.tensor]


@st.composite
def chains(draw: st.DrawFn) -> list[Stage]:
    """Chains of convs with strides, upscales, skips of equal rate, and row multiples.

    Where a skip is, the tensor may come with a second one.
    """
    stages = [Stage("s0", (Read("input"),), "t0")]
    for i in range(1, draw(st.integers(2, 6))):
        stride, span = draw(st.sampled_from([1, 1, 1, 2])), draw(st.integers(1, 5))
        pad = draw(st.integers(0, span))
        up = draw(st.sampled_from([1, 1, 1, 2, 3])) if stride == 1 else 1
        reads = [Read(f"t{i - 1}", stride, pad, span)]
        if stride == 1 and i > 1 and stages[-1].up == 1 and stages[-1].reads[0].stride == 1:
            skipped = draw(st.sampled_from(["", "one", "two"]))
            reads += [Read(f"t{i - 2}")] if skipped else []
            if skipped == "two":
                stages[i - 2] = replace(stages[i - 2], also=f"u{i - 2}")
                reads.append(Read(f"u{i - 2}"))
        multiple = draw(st.sampled_from([1, 2, 4]))
        stages.append(Stage(f"s{i}", tuple(reads), f"t{i}", up, multiple))
    return stages


@settings(deadline=None)
@given(stages=chains(), first=st.integers(0, 3), blocks=st.integers(1, 4))
def test_every_row_of_a_band_is_computed_from_current_rows(
    stages: list[Stage], first: int, blocks: int
) -> None:
    schedule = plan(stages)
    assert schedule is not None
    rows, up = schedule.slots[-1].rows, stages[-1].up
    got = simulate(stages, schedule, first, first + blocks)
    assert set(range(first * rows * up, (first + blocks) * rows * up)) <= got
    for stage, slot in zip(stages, schedule.slots, strict=True):
        assert slot.rows % stage.multiple == 0


def test_the_rings_of_three_convs_and_a_residual() -> None:
    stages = [
        Stage("a", (Read("input"),), "x"),
        Stage("b", (Read("x", 1, 1, 3),), "y", 1, 4),
        Stage("c", (Read("y", 1, 1, 3), Read("x")), "z", 1, 4),
    ]
    schedule = plan(stages)
    assert schedule is not None
    assert [s.rows for s in schedule.slots] == [4, 4, 4]
    assert [s.lag for s in schedule.slots] == [0, 1, 4]
    assert schedule.rings == {"x": 8, "y": 8}


def test_rates_that_disagree_give_no_schedule() -> None:
    stages = [
        Stage("a", (Read("input"),), "x"),
        Stage("b", (Read("x", 2, 1, 3),), "y"),
        Stage("c", (Read("y"), Read("x")), "z"),
    ]
    assert plan(stages) is None
