"""Fused epilogues: from the accumulators of a few pixels to stored values.

v = float32(acc) * M[c]; then the steps, each rounded once:
    Activation  v = v if v >= 0 else v * alpha[c]
    Residual    v = fma(float32(q_r - z_r), R, v)
and the end: int8 clamp(rne(v) + z), uint8 clamp(rne(v), 0, 255), float32 v. Where the output goes
is a list of `Segment`s: runs of contiguous elements, each a lane of a pixel; a pixel shuffle is
nothing but other segments. The order of the lanes is that of the segments, so that each run draws
on few vectors; the weights are permuted to match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T  # noqa: N812

from calib.qparams import (
    F32,
    INT8_MAX,
    INT8_MIN,
    UINT8_MAX,
    requantize_multiplier,
    uint8_multiplier,
)
from compiler.kernels.builder import (
    cast,
    clamp,
    i32,
    lanes,
    let,
    local,
    pick,
    power_of_two_runs,
    shuffle,
    splat,
    store,
)
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.rows import Rows
from compiler.network import Activation, Conv, DepthToSpace, Residual, Tensor
from compiler.reference import residual_multiplier

STREAM_BYTES = 16 << 20  # outputs larger than this do not stay in the caches anyway
Accumulator = Callable[[int, int], Expr]  # (vector, pixel) -> 2^shift acc
LINE = 16  # float32 in a cache line
SAFE = float(2**30)  # |v| below this needs no clamp before its conversion to int32


@dataclass(frozen=True)
class Segment:
    """Channels of one pixel that are contiguous in the output.

    For an image stored by planes, `plane` and `row` say where; for one stored by pixels, `row`.
    """

    channels: tuple[int, ...]
    row: int = 0
    plane: int = 0


def segments(channels: int, planar: bool, shuffle_op: DepthToSpace | None) -> list[Segment]:
    """Segments of an output pixel with `channels` channels, before the optional pixel shuffle."""
    if shuffle_op is None:
        if planar:
            return [Segment((c,), 0, c) for c in range(channels)]
        return [Segment(tuple(range(channels)))]
    b, depth = shuffle_op.block, channels // shuffle_op.block**2

    def source(c: int, i: int, j: int) -> int:
        return (c * b + i) * b + j if shuffle_op.mode == "CRD" else (i * b + j) * depth + c

    if planar:
        return [
            Segment(tuple(source(c, i, j) for j in range(b)), i, c)
            for c in range(depth)
            for i in range(b)
        ]
    return [
        Segment(tuple(source(c, i, j) for j in range(b) for c in range(depth)), i) for i in range(b)
    ]


@dataclass(frozen=True, eq=False)
class Epilogue:
    """The epilogue of one conv for one instruction set.

    Attributes:
        out, residuals: tensor types of the output and of the residuals.
        block: of the fused pixel shuffle, 1 without.
        parts: the segments; their channels in order are the lanes.
        shift: accumulators arrive times 2^shift.
        bound: max |acc| (without 2^shift).
    """

    isa: Isa
    conv: Conv
    out: Tensor
    residuals: dict[str, Tensor]
    block: int
    parts: list[Segment]
    multiplier: F32
    bound: float
    shift: int = 0
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @property
    def order(self) -> list[int]:
        """The output channel of each lane."""
        return [c for part in self.parts for c in part.channels]

    @property
    def vectors(self) -> int:
        """Vectors that hold one pixel."""
        return -(-len(self.order) // self.isa.lanes)

    @property
    def pixels(self) -> int:
        """Pixels that make whole cache lines (float32) or are worth packing together (bytes)."""
        if self.out.kind == "float32":
            per_pixel = len(self.parts[0].channels)
            return LINE // int(np.gcd(LINE, per_pixel))
        return 1 if self.in_order else 4

    @property
    def in_order(self) -> bool:
        """Stored in the order of the lanes: an int8 tensor without a pixel shuffle."""
        return self.out.kind == "int8" and self.block == 1


def streams(e: Epilogue, size: tuple[int, int], together: int, step: int) -> bool:
    """Whether the float32 output can be written past the caches, in whole aligned lines.

    Args:
        size: height and width before the pixel shuffle.
        together: pixels whose epilogue is emitted together; step: pixels of a block of them.
    """
    if e.out.kind != "float32" or together % e.pixels or step % e.pixels:
        return False
    aligned = size[1] % e.pixels == 0  # clamped blocks start at a multiple too
    return aligned and 4 * len(e.order) * size[0] * size[1] > STREAM_BYTES


def multiplier(conv: Conv, s_x: float, out: Tensor) -> F32:
    """M[c] of a conv whose input has the scale s_x."""
    match out.kind:
        case "int8":
            return requantize_multiplier(s_x, conv.weight_scale, out.q.scale)
        case "float32":
            return requantize_multiplier(s_x, conv.weight_scale)
        case "uint8":
            return uint8_multiplier(s_x, conv.weight_scale)


def by_lane(values: NDArray[np.generic], order: Sequence[int], count: int) -> NDArray[np.generic]:
    """Per-channel values in the order of the lanes, zero in the lanes left over."""
    out = np.zeros((count, *values.shape[1:]), values.dtype)
    out[: len(order)] = values[list(order)]
    return out


def prepare(e: Epilogue) -> dict[str, NDArray[np.generic]]:
    """Constants: `scale` float32 [lanes], and `alpha<i>` where it differs by channel."""
    count = e.vectors * e.isa.lanes
    scale = np.ldexp(e.multiplier, -e.shift).astype(np.float32)
    constants = {"scale": by_lane(scale, e.order, count)}
    for i, step in enumerate(e.conv.steps):
        if isinstance(step, Activation) and step.alpha.size > 1:
            constants[f"alpha{i}"] = by_lane(step.alpha.astype(np.float32), e.order, count)
    return constants


def value_bound(e: Epilogue) -> float:
    """Upper bound of |v| before the conversion to integer."""
    v = e.bound * float(np.abs(e.multiplier).max()) * 1.001
    for step in e.conv.steps:
        if isinstance(step, Activation):
            v *= max(1.0, float(np.abs(step.alpha).max()))
        else:
            r = residual_multiplier(e.residuals[step.tensor].q.scale, e.out)
            v += 256.0 * float(r)
        v *= 1.001
    return v


def emit(
    e: Epilogue,
    acc: Accumulator,
    pixels: int,
    y: Expr,
    x: Expr,
    constants: Mapping[str, Expr],
    residuals: Mapping[str, Rows],
    output: Output,
    vectors: range,
) -> None:
    """Emits the epilogue of some vectors of `pixels` pixels from (y, x)."""
    values: dict[tuple[int, int], Expr] = {}
    rows = {name: r.slot(y) for name, r in residuals.items()}

    def value(v: int, p: int) -> Expr:
        if (v, p) not in values:
            values[v, p] = _value(e, acc(v, p), v, constants, residuals, rows, x + p)
        return values[v, p]

    if e.in_order:
        _store_in_order(e, value, pixels, y, x, output, vectors)
    else:
        _store_segments(e, value, pixels, y, x, output, vectors)


def _value(
    e: Epilogue,
    acc: Expr,
    v: int,
    constants: Mapping[str, Expr],
    residuals: Mapping[str, Rows],
    rows: dict[str, Expr],
    x: Expr,
) -> Expr:
    """The float32 value of vector v at pixel x, or the integer one where the output is bytes."""
    n = e.isa.lanes
    here = lanes(i32(v * n), n)
    z = let(cast("float32", n, acc) * constants["scale"][here])
    for i, step in enumerate(e.conv.steps):
        if isinstance(step, Activation):
            alpha = constants.get(f"alpha{i}")
            z = let(_activate(z, step, alpha[here] if alpha is not None else None, n))
        else:
            r = residual_multiplier(e.residuals[step.tensor].q.scale, e.out)
            centred = _residual(e, v, residuals[step.tensor], rows[step.tensor], x, step)
            z = let(
                T.call_llvm_pure_intrin(
                    f"float32x{n}", "llvm.fma", centred, splat(float(r), "float32", n), z
                )
            )
    if e.out.kind == "float32":
        return z
    return let(_integer(e, z, n))


def _activate(z: Expr, step: Activation, alpha: Expr | None, n: int) -> Expr:
    slope = splat(float(step.alpha.flat[0]), "float32", n) if alpha is None else alpha
    if step.alpha.min() >= 0 and step.alpha.max() <= 1:
        return T.max(z, z * slope)
    return T.Select(z >= splat(0, "float32", n), z, z * slope)


def _residual(e: Epilogue, v: int, rows: Rows, slot: Expr, x: Expr, step: Residual) -> Expr:
    """float32(q_r - z_r) of the lanes of vector v at pixel x."""
    n = e.isa.lanes
    if e.block == 1:
        stored = rows.buffer[slot, lanes(rows.layout.at(x, v * n), n)]
    else:  # lanes in another order than the channels
        order = (e.order + [0] * n)[v * n : v * n + n]
        scratch = local((n,), rows.buffer.dtype)
        for lane, channel in enumerate(order):
            store(scratch, rows.buffer[slot, rows.layout.at(x, channel)], [lane])
        stored = scratch[lanes(i32(0), n)]
    zero = e.residuals[step.tensor].q.zero_point + e.isa.offset
    return cast("float32", n, cast("int32", n, stored) - splat(zero, "int32", n))


def _integer(e: Epilogue, z: Expr, n: int) -> Expr:
    """The stored integer of v in int32, saturated later: clamp(rne(v) + z) + offset."""
    if e.out.kind == "uint8":
        zero, lo, hi = 0, 0, UINT8_MAX
    else:
        zero, lo, hi = e.out.q.zero_point, INT8_MIN, INT8_MAX
    if value_bound(e) >= SAFE:
        z = clamp(z, splat(lo - zero, "float32", n), splat(hi - zero, "float32", n))
    shift = zero + (e.isa.offset if e.out.kind == "int8" else 0)
    q = e.isa.round(z)
    return q + splat(shift, "int32", n) if shift else q


@dataclass(frozen=True)
class Output:
    """Where an epilogue stores: `rows` of the network's own layout, or the graph's output buffer.

    The graph's output is float32 [1, C, H, W] or uint8 [1, H, W, C].
    """

    rows: Rows | None
    buffer: Expr = None
    streaming: bool = False  # float32 goes past the caches; every vector is aligned


def _store_in_order(
    e: Epilogue,
    value: Callable[[int, int], Expr],
    pixels: int,
    y: Expr,
    x: Expr,
    output: Output,
    vectors: range,
) -> None:
    assert output.rows is not None
    slot, layout = output.rows.slot(y), output.rows.layout
    for p in range(pixels):
        for start, count in power_of_two_runs(len(vectors), 4):
            first = vectors.start + start
            packed = _pack(e, [value(first + i, p) for i in range(count)])
            whole = count * e.isa.lanes
            used = min(whole, layout.channels - first * e.isa.lanes)
            for at, n in power_of_two_runs(used, whole):
                part = packed if n == whole else shuffle([packed], range(at, at + n))
                index = layout.at(x + p, first * e.isa.lanes + at)
                store(output.rows.buffer, part, [slot, lanes(index, n)])


def _pack(e: Epilogue, vectors: list[Expr]) -> Expr:
    """Saturates int32 vectors to bytes, side by side."""
    n = e.isa.lanes * len(vectors)
    joined = shuffle(vectors, range(n)) if len(vectors) > 1 else vectors[0]
    unsigned = e.out.kind == "uint8" or e.isa.bytes_dot
    lo, hi, dtype = (0, 255, "uint8") if unsigned else (-128, 127, "int8")
    return cast(dtype, n, clamp(joined, splat(lo, "int32", n), splat(hi, "int32", n)))


def _store_segments(
    e: Epilogue,
    value: Callable[[int, int], Expr],
    pixels: int,
    y: Expr,
    x: Expr,
    output: Output,
    vectors: range,
) -> None:
    n, lane = e.isa.lanes, 0
    packs: dict[tuple[int, int], Expr] = {}

    def source(v: int, p: int) -> Expr:
        if e.out.kind == "float32":
            return value(v, p)
        if (v, p) not in packs:
            packs[v, p] = let(_pack(e, [value(v, p)]))
        return packs[v, p]

    for part in e.parts:
        width = len(part.channels)
        if lane // n not in vectors:
            lane += width
            continue
        where = [(p, lane + j) for p in range(pixels) for j in range(width)]
        for start, count in power_of_two_runs(len(where), n):
            used = where[start : start + count]
            keys = sorted({(index // n, p) for p, index in used})
            picks = [(keys.index((index // n, p)), index % n) for p, index in used]
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
    elif e.out.kind == "float32":
        column = x * e.block + start
        if output.streaming and count == e.isa.lanes:
            address = T.address_of(output.buffer[0, part.plane, row, column])
            T.evaluate(e.isa.stream(address, vector))
        else:
            store(output.buffer, vector, [0, part.plane, row, lanes(column, count)])
    else:
        store(output.buffer, vector, [0, row, 0, lanes(x * len(part.channels) + start, count)])
