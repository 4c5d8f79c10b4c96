"""Operators that quantize or move integers: graph input, pixel shuffle, concat, pool, upscale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T  # noqa: N812

from calib.qparams import F32, I8, INT8_MAX, INT8_MIN, QParams, round_clamp
from compiler.kernels.builder import (
    cast,
    clamp,
    i32,
    inside,
    lanes,
    let,
    power_of_two_runs,
    serial,
    shuffle,
    splat,
    store,
    when,
)
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Constants, Context
from compiler.kernels.rows import Rows
from compiler.kernels.schedule import Stage
from compiler.network import Concat, DepthToSpace, MaxPool, QuantizeInput, ResizeNearest

COPY = 32  # bytes copied at a time


@dataclass(frozen=True, eq=False)
class RowKernel:
    """Base of the kernels that work row by row without scratch."""

    stage: Stage
    height: int  # rows of the stage
    width: int  # pixels of an input row
    isa: Isa
    constants: Constants
    choice: str

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """Nothing."""
        return {}

    def emit(self, context: Context, first: Expr, rows: int) -> None:
        """See `Kernel.emit`."""
        with serial(rows) as i:
            y = let(first + i)
            with when(inside(y, self.height)):
                self.row(context, y)

    def row(self, context: Context, y: Expr) -> None:
        """Emits row y of the stage."""
        raise NotImplementedError


def output_rows(context: Context) -> Rows:
    """The output of an operator inside the network."""
    assert context.output.rows is not None
    return context.output.rows


def graph_input(kernel: RowKernel, context: Context) -> Expr:
    """The buffer that an operator quantizes."""
    return context.outside[kernel.stage.reads[0].tensor]


@dataclass(frozen=True, eq=False)
class Quantize(RowKernel):
    """float32 [1, C, H, W]: clamp(rne((x - mean[c]) / d[c]) + z), a true division; NaN gives z."""

    q: QParams
    mean: F32  # [C]
    divisor: F32  # [C], `qparams.input_divisor`

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`; 16 pixels at a time, the last ones again where they overlap."""
        out = output_rows(context)
        slot, channels = out.slot(y), out.layout.channels
        n = min(16, 1 << (self.width.bit_length() - 1))
        with serial(-(-self.width // n)) as block:
            x = let(T.min(block * n, i32(self.width - n)))
            planes = [
                let(self._stored(graph_input(self, context)[0, c, y, lanes(x, n)], c, n))
                for c in range(channels)
            ]
            interleave(out, slot, x, planes, n)

    def _stored(self, x: Expr, c: int, n: int) -> Expr:
        lo, hi = (splat(v - self.q.zero_point, "float32", n) for v in (INT8_MIN, INT8_MAX))
        x = let(x)
        centred = x - splat(float(self.mean[c]), "float32", n) if self.mean[c] else x
        v = let(clamp(centred / splat(float(self.divisor[c]), "float32", n), lo, hi))
        # NaN by its bits: TVM takes x == x for true
        bits = T.reinterpret(f"int32x{n}" if n > 1 else "int32", x)
        magnitude = bits & splat(0x7FFFFFFF, "int32", n)
        v = let(T.Select(magnitude > splat(0x7F800000, "int32", n), splat(0, "float32", n), v))
        width = self.isa.lanes
        parts = (
            [v] if n <= width else [shuffle([v], range(i, i + width)) for i in range(0, n, width)]
        )
        rounded = [nearest(p, min(n, width), self.isa) for p in parts]
        q = rounded[0] if len(rounded) == 1 else shuffle(rounded, range(n))
        return cast(self.isa.stored, n, q + splat(self.q.zero_point + self.isa.offset, "int32", n))


def nearest(v: Expr, n: int, isa: Isa) -> Expr:
    """int32(rne(v)) for |v| < 2^22: adding 3 * 2^22 leaves the integer in the low bits."""
    if n == isa.lanes:
        return isa.round(v)
    magic = 12582912.0  # 3 * 2^22
    bits = T.reinterpret(f"int32x{n}" if n > 1 else "int32", v + splat(magic, "float32", n))
    return bits - splat(int(np.float32(magic).view(np.int32)), "int32", n)


def interleave(out: Rows, slot: Expr, x: Expr, planes: list[Expr], n: int) -> None:
    """Stores n pixels of len(planes) channels, given one vector of n bytes a channel."""
    channels = len(planes)
    if channels <= 4 and n > 1:
        source = [(i % channels) * n + i // channels for i in range(n * channels)]
        joined = let(shuffle(planes, range(n * channels))) if channels > 1 else planes[0]
        for start, count in power_of_two_runs(n * channels, 64):
            part = shuffle([joined], source[start : start + count]) if channels > 1 else joined
            store(out.buffer, part, [slot, lanes(out.layout.at(x) + start, count)])
        return
    for c, plane in enumerate(planes):
        for i in range(n):
            element = shuffle([plane], [i]) if n > 1 else plane
            store(out.buffer, element, [slot, out.layout.at(x + i, c)])


@dataclass(frozen=True, eq=False)
class Line(RowKernel):
    """uint8 [1, H, W, C] where one line gives the whole table: clamp(rne(u slope)) + z."""

    slope: np.float32
    zero: int  # z

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`; pixels are stored as they come, so channels do not matter."""
        out, n = output_rows(context), self.isa.lanes
        slot, count = out.slot(y), self.width * out.layout.channels
        if count < n:
            with serial(count) as i:
                self._store(context, out, slot, y, i, 1)
            return
        with serial(-(-count // n)) as block:
            self._store(context, out, slot, y, let(T.min(block * n, i32(count - n))), n)

    def _store(self, context: Context, out: Rows, slot: Expr, y: Expr, i: Expr, n: int) -> None:
        u = cast("float32", n, cast("int32", n, graph_input(self, context)[0, y, 0, lanes(i, n)]))
        lo, hi = (splat(v - self.zero, "float32", n) for v in (INT8_MIN, INT8_MAX))
        q = nearest(clamp(u * splat(float(self.slope), "float32", n), lo, hi), n, self.isa)
        stored = q + splat(self.zero + self.isa.offset, "int32", n)
        store(out.buffer, cast(self.isa.stored, n, stored), [slot, lanes(out.layout.at(0) + i, n)])


def line_through(table: I8) -> tuple[np.float32, int] | None:
    """Slope and zero of a line that reproduces a lookup table entry by entry, if there is one.

    Every entry that is not clamped bounds the slope: q - z - 1/2 <= u slope <= q - z + 1/2.

    Args:
        table: int8 [C, 256].
    """
    q, u = table[0].astype(np.float64), np.arange(256.0)
    zero = int(table[0, 0])
    inside = (u > 0) & (q > INT8_MIN) & (q < INT8_MAX)
    if not inside.any():
        return None
    low = ((q - zero - 0.5)[inside] / u[inside]).max()
    high = ((q - zero + 0.5)[inside] / u[inside]).min()
    slope = np.float32((low + high) / 2)
    line = round_clamp(u.astype(np.float32) * slope, zero, INT8_MIN, INT8_MAX)
    return (slope, zero) if np.array_equal(np.broadcast_to(line, table.shape), table) else None


@dataclass(frozen=True, eq=False)
class Lookup(RowKernel):
    """uint8 [1, H, W, C] through the 256-entry table of each channel."""

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        out, table = output_rows(context), context.constants["table"]
        slot, channels = out.slot(y), out.layout.channels
        with serial(self.width) as x:
            for c in range(channels):
                index = cast("int32", 1, graph_input(self, context)[0, y, x, c]) + c * 256
                store(out.buffer, table[index], [slot, out.layout.at(x, c)])


@dataclass(frozen=True, eq=False)
class Shuffle(RowKernel):
    """Pixel shuffle of stored integers: input row y becomes output rows [y b, (y + 1) b)."""

    op: DepthToSpace

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        source, out, b = context.rows[self.op.input], output_rows(context), self.op.block
        slot, depth = source.slot(y), out.layout.channels
        crd = self.op.mode == "CRD"
        with serial(b) as i:
            target = out.slot(y * b + i)
            with serial(self.width) as x, serial(b) as j, serial(depth) as c:
                channel = (c * b + i) * b + j if crd else (i * b + j) * depth + c
                value = source.buffer[slot, source.layout.at(x, channel)]
                store(out.buffer, value, [target, out.layout.at(x * b + j, c)])


@dataclass(frozen=True, eq=False)
class Join(RowKernel):
    """Channels of several tensors of one scale side by side."""

    op: Concat

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        out, first = output_rows(context), 0
        target = out.slot(y)
        for name in self.op.inputs:
            source = context.rows[name]
            slot, channels = source.slot(y), source.layout.channels
            with serial(self.width) as x:
                for start, count in power_of_two_runs(channels, COPY):
                    value = source.buffer[slot, lanes(source.layout.at(x, start), count)]
                    store(
                        out.buffer, value, [target, lanes(out.layout.at(x, first + start), count)]
                    )
            first += channels


@dataclass(frozen=True, eq=False)
class Pool(RowKernel):
    """Maximum over a window. Rows and columns beyond the image repeat its edge, which is in the
    window too, so that padding never wins (pads are smaller than the window).
    """

    op: MaxPool
    size: tuple[int, int]  # of the input

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        source, out = context.rows[self.op.input], output_rows(context)
        (kh, kw), (sh, sw), (top, left, _, _) = self.op.kernel, self.op.strides, self.op.pads
        height, width = self.size
        slots = [
            source.slot(T.max(T.min(y * sh - top + i, i32(height - 1)), i32(0))) for i in range(kh)
        ]
        target = out.slot(y)
        with serial(self.width) as x:
            columns = [
                let(T.max(T.min(x * sw - left + j, i32(width - 1)), i32(0))) for j in range(kw)
            ]
            for start, count in power_of_two_runs(out.layout.channels, COPY):
                best = None
                for slot in slots:
                    for column in columns:
                        at = lanes(source.layout.at(column, start), count)
                        value = source.buffer[slot, at]
                        best = value if best is None else let(T.max(best, value))
                store(out.buffer, best, [target, lanes(out.layout.at(x, start), count)])


@dataclass(frozen=True, eq=False)
class Upscale(RowKernel):
    """Nearest upscale: input row y becomes output rows [y fy, (y + 1) fy)."""

    op: ResizeNearest

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        source, out, (fy, fx) = context.rows[self.op.input], output_rows(context), self.op.factors
        slot = source.slot(y)
        with serial(fy) as i:
            target = out.slot(y * fy + i)
            with serial(self.width) as x:
                for start, count in power_of_two_runs(out.layout.channels, COPY):
                    value = let(source.buffer[slot, lanes(source.layout.at(x, start), count)])
                    for j in range(fx):
                        at = lanes(out.layout.at(x * fx + j, start), count)
                        store(out.buffer, value, [target, at])


def table_constants(op: QuantizeInput, isa: Isa) -> dict[str, NDArray[np.generic]]:
    """The stored form of the lookup table, [C * 256]."""
    assert op.table is not None
    stored = op.table.astype(np.int32) + isa.offset
    return {"table": stored.astype(isa.stored).reshape(-1)}
