"""Where a fused epilogue stores: the network's own rows or the graph's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.builder import lanes, let, pick, power_of_two_runs, shuffle, store
from compiler.kernels.epilogue import Epilogue, Segment
from compiler.kernels.isa import Expr
from compiler.kernels.rows import Rows

Value = Callable[[int, int], Expr]  # (vector, pixel) -> float32, or int32 before saturation
Source = Callable[[int, int], Expr]  # (vector, run) -> float32 of a pixel, or bytes of a few


@dataclass(frozen=True)
class Output:
    """Where an epilogue stores: `rows` of the network's own layout, or the graph's output buffer.

    The graph's output is float32 [1, C, H, W] or uint8 [1, H, W, C].
    """

    rows: Rows | None
    buffer: Expr = None
    streaming: bool = False  # whole vectors go past the caches; each is aligned


def in_order(
    e: Epilogue,
    value: Value,
    pixels: int,
    y: Expr,
    x: Expr,
    output: Output,
    vectors: range,
) -> None:
    """Stores the vectors of some pixels of an int8 tensor, lane by lane."""
    assert output.rows is not None
    n, slot, layout = e.isa.lanes, output.rows.slot(y), output.rows.layout
    whole = len(vectors) * n == layout.channels  # the pixels touch
    together = [(p, v) for p in range(pixels) for v in vectors]
    runs = [together] if whole else [[(p, v) for v in vectors] for p in range(pixels)]
    for run in runs:
        for start, count in power_of_two_runs(len(run), 4):
            p, v = run[start]
            packed = pack(e, [value(w, q) for q, w in run[start : start + count]])
            used = count * n if whole else min(count * n, layout.channels - v * n)
            for at, length in power_of_two_runs(used, count * n):
                part = packed if length == count * n else shuffle([packed], range(at, at + length))
                index = layout.at(x + p, v * n + at)
                store(output.rows.buffer, part, [slot, lanes(index, length)])


def pack(e: Epilogue, vectors: list[Expr]) -> Expr:
    """Adds the stored zero to int32 vectors and saturates them to bytes, side by side."""
    unsigned = e.out.kind == "uint8" or e.isa.bytes_dot
    zero = 0 if e.out.kind == "uint8" else e.out.q.zero_point + e.isa.offset
    return let(e.isa.narrow(vectors, zero, "uint8" if unsigned else "int8"))


def pixel_runs(e: Epilogue, pixels: int) -> list[range]:
    """The pixels whose values of one vector of channels fit a vector: several of bytes."""
    runs = power_of_two_runs(pixels, e.whole // e.isa.lanes)
    return [range(p, p + count) for p, count in runs]


def segments(
    e: Epilogue,
    source: Source,
    runs: list[range],
    y: Expr,
    x: Expr,
    output: Output,
    vectors: range,
) -> None:
    """Stores the segments that begin in `vectors`, each over all pixels of the `runs`."""
    n, lane = e.isa.lanes, 0
    for part in e.parts:
        width = len(part.channels)
        if lane // n not in vectors:
            lane += width
            continue
        where = [
            ((index // n, s), (p - run.start) * n + index % n)
            for s, run in enumerate(runs)
            for p in run
            for index in range(lane, lane + width)
        ]
        for start, count in power_of_two_runs(len(where), e.whole):
            used = where[start : start + count]
            keys = sorted({key for key, _ in used})
            picks = [(keys.index(key), at) for key, at in used]
            vector = let(pick([source(*key) for key in keys], n, picks))
            _store_run(e, part, vector, y, x, start, count, output)
        lane += width


def _store_run(
    e: Epilogue,
    part: Segment,
    vector: Expr,
    y: Expr,
    x: Expr,
    start: int,
    count: int,
    output: Output,
) -> None:
    """Stores `count` elements of a segment from element `start` of the run that begins at x."""
    row = y * e.block + part.row
    if output.rows is not None:
        index = lanes(output.rows.layout.at(x * e.block) + start, count)
        store(output.rows.buffer, vector, [output.rows.slot(row), index])
        return
    if e.out.kind == "float32":
        at = [0, part.plane, row, x * e.block + start]
    else:
        at = [0, row, 0, x * len(part.channels) + start]
    if output.streaming and count == e.whole:
        address = T.address_of(output.buffer[tuple(at)])
        T.evaluate(e.isa.stream(address, vector))
        if start == 0:
            T.evaluate(e.isa.translate_ahead(address))
    else:
        store(output.buffer, vector, [*at[:-1], lanes(at[-1], count)])
