"""Winograd convolution in exact integers, F(4x4, 3x3) and F(2x2, 3x3); the algebra is `algebra`.

For a row of `tiles` neighbouring m x m output tiles:
    V[f, t, c] = (B^T d B)[f] of the stored activations d of tile t, channel c        (int16)
    M[f, t, o] = start[f, o] + sum over c of V[f, t, c] U[f, o, c]                     (mod 2^32)
    (A^T M A)[t, o] * inverse = 2^shift acc                                            (mod 2^32)
with n^2 frequencies f, n = m + 2. start is factor * b' at the frequency of the points (1, 1), which
adds b' to every output; zero points and the stored offset are folded into b' as in `direct`.
`algebra.prove` shows that V and U fit int16 and that 2^shift acc fits int32, so nothing is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels import epilogue
from compiler.kernels.algebra import Proof, Transform
from compiler.kernels.builder import (
    cast,
    i32,
    lanes,
    let,
    local,
    reinterpret,
    serial,
    splat,
    store,
    when,
)
from compiler.kernels.direct import folded_bias
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Constants, Context
from compiler.kernels.rows import Layout, Rows
from compiler.kernels.schedule import Stage
from compiler.network import Conv

Vector = Expr
Combine = Callable[[Vector, Vector], Vector]


def linear(
    matrix: NDArray[np.int64],
    x: Sequence[Vector],
    add: Combine,
    sub: Combine,
    scale: Callable[[Vector, int], Vector],
) -> list[Vector]:
    """matrix @ x by additions, subtractions and small multiples.

    Neighbouring rows that differ in the sign of the odd columns (the points p and -p) share their
    even part e and odd part o, as e + o and e - o.
    """
    rows = [list(map(int, row)) for row in matrix]
    out: list[Vector] = []
    i = 0
    while i < len(rows):
        if i + 1 < len(rows) and _mirrored(rows[i], rows[i + 1]):
            e = let(_sum([c * (j % 2 == 0) for j, c in enumerate(rows[i])], x, add, sub, scale))
            o = let(_sum([c * (j % 2 == 1) for j, c in enumerate(rows[i])], x, add, sub, scale))
            out += [let(add(e, o)), let(sub(e, o))]
            i += 2
        else:
            out.append(let(_sum(rows[i], x, add, sub, scale)))
            i += 1
    return out


def _mirrored(a: list[int], b: list[int]) -> bool:
    odd = any(a[1::2])
    return (
        odd
        and any(a[0::2])
        and all(y == x * (-1) ** j for j, (x, y) in enumerate(zip(a, b, strict=True)))
    )


def _sum(
    row: list[int],
    x: Sequence[Vector],
    add: Combine,
    sub: Combine,
    scale: Callable[[Vector, int], Vector],
) -> Vector:
    """sum of row[j] x[j]; terms of one magnitude are added before they are scaled."""
    total = None
    for magnitude in sorted({abs(c) for c in row if c}):
        terms = sorted(((c > 0, j) for j, c in enumerate(row) if abs(c) == magnitude), reverse=True)
        positive = terms[0][0]
        part = x[terms[0][1]]
        for sign, j in terms[1:]:
            part = (add if sign == positive else sub)(part, x[j])
        part = scale(part, magnitude)
        if total is None and not positive:
            part, positive = scale(part, -1), True
        total = part if total is None else (add if positive else sub)(total, part)
    return total


def output_transform(AT: NDArray[np.int64], x: Sequence[Vector], isa: Isa) -> list[Vector]:
    """A^T x modulo 2^32: columns of the points p and -p enter as sum and difference."""
    columns = [list(map(int, column)) for column in AT.T]
    values, weights = list(x), columns
    for j in range(len(columns) - 1):
        a, b = columns[j], columns[j + 1]
        if any(a[1::2]) and all(
            v == u * (-1) ** i for i, (u, v) in enumerate(zip(a, b, strict=True))
        ):
            values[j], values[j + 1] = let(isa.add(x[j], x[j + 1])), let(isa.sub(x[j], x[j + 1]))
            weights[j] = [u * (i % 2 == 0) for i, u in enumerate(a)]
            weights[j + 1] = [u * (i % 2 == 1) for i, u in enumerate(a)]
    rows = [[w[i] for w in weights] for i in range(len(AT))]
    return [
        let(_sum(row, values, isa.add, isa.sub, lambda v, k: _shifted(v, k, isa))) for row in rows
    ]


def _shifted(v: Vector, k: int, isa: Isa) -> Vector:
    if k > 0 and k & (k - 1) == 0:
        return v << splat(k.bit_length() - 1, "int32", isa.lanes) if k > 1 else v
    return isa.mul(v, k)


@dataclass(frozen=True)
class Group:
    """Vectors of output channels whose epilogue is emitted together, in register blocks."""

    first: int
    blocks: tuple[int, ...]  # vectors of each register block

    @property
    def vectors(self) -> int:
        """Vectors of the group."""
        return sum(self.blocks)


def groups(e: Epilogue, widest: int, block: int) -> list[Group]:
    """Splits the vectors where no segment straddles.

    Args:
        widest: most vectors of a group, where segments allow.
        block: most vectors of a register block.
    """
    n, edges, lane = e.isa.lanes, {0, e.vectors}, 0
    for part in e.parts:
        lane += len(part.channels)
        if lane % n == 0:
            edges.add(lane // n)
    if e.in_order:
        edges = set(range(e.vectors + 1))
    result, first = [], 0
    while first < e.vectors:
        fitting = [v for v in edges if first < v <= first + widest]
        last = max(fitting) if fitting else min(v for v in edges if v > first)
        count = last - first
        pieces = -(-count // block)
        blocks = tuple(count // pieces + (i < count % pieces) for i in range(pieces))
        result.append(Group(first, blocks))
        first = last
    return result


@dataclass(frozen=True, eq=False)
class Winograd:
    """The Winograd kernel of one conv for one image size."""

    stage: Stage
    height: int
    width: int
    constants: Constants
    choice: str
    epilogue: Epilogue
    source: Layout
    t: Transform
    tiles: int  # neighbouring tiles computed together
    groups: list[Group]

    @property
    def isa(self) -> Isa:
        """The instruction set."""
        return self.epilogue.isa

    @property
    def conv(self) -> Conv:
        """The operator."""
        return self.epilogue.conv

    @property
    def words(self) -> int:
        """32-bit words (two channels) of a V vector, padded to whole vectors."""
        return _words(self.source.channels, self.isa)

    @property
    def together(self) -> int:
        """Tiles whose epilogue is emitted together, to make whole output vectors."""
        wanted = max(1, self.epilogue.pixels // self.t.m)
        return wanted if self.tiles % wanted == 0 else 1

    @property
    def streams(self) -> bool:
        """The output is written past the caches."""
        size, m = (self.height, self.width), self.t.m
        return epilogue.streams(self.epilogue, size, m * self.together, m * self.tiles)

    @property
    def columnwise(self) -> bool:
        """Registers hold a column of frequencies, which saves writing and reading M."""
        return columnwise(self.isa)

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """Buffers of the transforms: columns, V, M, and half-transformed outputs."""
        t, n = self.t, self.isa.lanes
        widest = max(g.vectors for g in self.groups)
        reach = (t.m * self.tiles + 2) * self.source.channels
        scratch = {
            "columns": local((t.n, -(-reach // 64) * 64 + 128), "int16"),
            "V": local((t.n, self.tiles, t.n, self.words), "int32"),  # [j, tile, i, word]
        }
        kept = self.tiles if self.columnwise else self.together
        scratch["half"] = local((kept * widest, t.m, t.n, n), "int32")
        if not self.columnwise:
            scratch["M"] = local((t.n**2, self.tiles, widest * n), "int32")
        return scratch

    def emit(self, context: Context, first: Expr, rows: int) -> None:
        """See `Kernel.emit`."""
        for tile_row in range(rows // self.t.m):
            y = let(first + tile_row * self.t.m) if tile_row else first
            with when(tir.all(y + self.t.m > 0, y < self.height)):
                self._tile_row(context, y)

    def _tile_row(self, context: Context, y: Expr) -> None:
        source, (top, left, _, _) = context.rows[self.conv.input], self.conv.pads
        slots = [source.slot(y - top + i) for i in range(self.t.n)]
        span = self.t.m * self.tiles
        with serial(-(-self.width // span)) as block:
            x = let(T.min(block * span, i32(self.width - span)))
            self._input(context.scratch, source, slots, self.source.at(x - left))
            for index, group in enumerate(self.groups):
                for block_index, first in enumerate(np.cumsum((0, *group.blocks[:-1]))):
                    self._multiply(context, index, group, block_index, int(first))
                self._output(context, group, y, x)

    def _input(
        self, scratch: Mapping[str, Expr], source: Rows, slots: list[Expr], start: Expr
    ) -> None:
        """V = B^T d B: rows first, over contiguous elements, then columns of each tile."""
        t, channels = self.t, self.source.channels
        columns, V = scratch["columns"], scratch["V"]
        wide = 2 * self.isa.lanes
        operations = _int16_operations(wide)
        with serial(-(-(t.m * self.tiles + 2) * channels // wide)) as k:
            at = lanes(start + k * wide, wide)
            d = [let(cast("int16", wide, source.buffer[slot, at])) for slot in slots]
            for i, v in enumerate(linear(t.BT, d, *operations)):
                store(columns, v, [i, lanes(k * wide, wide)])
        wide = min(wide, 2 * self.words)
        operations = _int16_operations(wide)
        with serial(t.n) as i, serial(self.tiles) as tile:
            for c in range(0, 2 * self.words, wide):
                at = [lanes((tile * t.m + j) * channels + c, wide) for j in range(t.n)]
                d = [let(columns[i, a]) for a in at]
                for j, v in enumerate(linear(t.BT, d, *operations)):
                    word = reinterpret(f"int32x{wide // 2}", v)
                    store(V, word, [j, tile, i, lanes(i32(c // 2), wide // 2)])

    def _multiply(self, context: Context, index: int, group: Group, block: int, first: int) -> None:
        """The products of one register block: tiles x vectors (x a column of frequencies)."""
        isa, n, t, vectors = self.isa, self.isa.lanes, self.t, group.blocks[block]
        V, U = context.scratch["V"], context.constants[f"U{index}_{block}"]
        used = -(-self.source.channels // 2)
        kept = t.n if self.columnwise else 1  # frequencies in registers
        tiles = tile_block(isa, vectors * kept, self.tiles)
        count = self.tiles // tiles

        def here(i: int, p: int, v: int) -> Expr:
            return lanes(i32(((i * tiles + p) * vectors + v) * n), n)

        with serial(t.n**2 // kept * count) as it:
            outer, t0 = let(T.floordiv(it, count)), let(T.floormod(it, count) * tiles)
            if self.columnwise:
                frequencies = [(i32(i), outer) for i in range(kept)]
            else:
                frequencies = [(let(T.floordiv(outer, t.n)), let(T.floormod(outer, t.n)))]
            sums = local((kept * tiles * vectors * n,), "int32")
            for i, f in enumerate(frequencies):
                self._start(
                    context,
                    f,
                    group.first + first,
                    vectors,
                    [[here(i, p, v) for p in range(tiles)] for v in range(vectors)],
                    sums,
                )
            with serial(used) as k:
                for i, f in enumerate(frequencies):
                    u = []
                    for v in range(vectors):
                        at = (((outer * used + k) * kept + i) * vectors + v) * 2 * n
                        u.append(let(reinterpret(isa.vector, U[lanes(at, 2 * n)])))
                    for p in range(tiles):
                        a = let(T.broadcast(V[f[1], t0 + p, f[0], k], n))
                        for v in range(vectors):
                            store(sums, isa.dot16_(sums[here(i, p, v)], a, u[v]), [here(i, p, v)])
            for p in range(tiles):
                for v in range(vectors):
                    column = [let(sums[here(i, p, v)]) for i in range(kept)]
                    self._keep(context.scratch, group, outer, t0 + p, first + v, column)

    def _start(
        self,
        context: Context,
        f: tuple[Expr, Expr],
        vector: int,
        vectors: int,
        places: list[list[Expr]],
        sums: Expr,
    ) -> None:
        """Accumulators of one frequency begin at zero, or at the bias where f is (1, 1)."""
        n, start = self.isa.lanes, context.constants["start"]
        biased = tir.all(f[0] == self.t.unit, f[1] == self.t.unit)
        begin = let(T.Select(biased, i32(1), i32(0)))
        for v in range(vectors):
            initial = let(start[begin, lanes(i32((vector + v) * n), n)])
            for place in places[v]:
                store(sums, initial, [place])

    def _keep(
        self,
        scratch: Mapping[str, Expr],
        group: Group,
        outer: Expr,
        tile: Expr,
        v: int,
        column: list[Vector],
    ) -> None:
        """Stores finished sums: one frequency to M, or A^T times a column of frequencies."""
        n = self.isa.lanes
        if not self.columnwise:
            store(scratch["M"], column[0], [outer, tile, lanes(i32(v * n), n)])
            return
        for i, z in enumerate(output_transform(self.t.AT, column, self.isa)):
            at = [tile * group.vectors + v, i, outer, lanes(i32(0), n)]
            store(scratch["half"], z, at)

    def _output(self, context: Context, group: Group, y: Expr, x: Expr) -> None:
        """A^T M A and the epilogue: columns of each tile, then row by row."""
        t, together = self.t, self.together
        with serial(self.tiles // together) as pair:
            tile = let(pair * together)
            if not self.columnwise:
                self._columns(context.scratch, group, tile)
            first = tile if self.columnwise else i32(0)
            with serial(t.m) as i, when(tir.all(y + i >= 0, y + i < self.height)):
                self._output_row(context, group, first, i, y + i, x + tile * t.m)

    def _columns(self, scratch: Mapping[str, Expr], group: Group, tile: Expr) -> None:
        """A^T M for some tiles."""
        t, n, M = self.t, self.isa.lanes, scratch["M"]
        for k in range(self.together):
            for v in range(group.vectors):
                for j in range(t.n):
                    at = lanes(i32(v * n), n)
                    column = [let(M[i * t.n + j, tile + k, at]) for i in range(t.n)]
                    for i, z in enumerate(output_transform(t.AT, column, self.isa)):
                        index = [k * group.vectors + v, i, j, lanes(i32(0), n)]
                        store(scratch["half"], z, index)

    def _output_row(
        self, context: Context, group: Group, first: Expr, i: Expr, y: Expr, x: Expr
    ) -> None:
        """The epilogue of row i of some tiles, which lie in `half` from tile `first`."""
        t, n, isa, e = self.t, self.isa.lanes, self.isa, self.epilogue
        half = context.scratch["half"]
        done: dict[tuple[int, int], list[Vector]] = {}

        def accumulator(v: int, p: int) -> Vector:
            key = (v - group.first, p // t.m)
            if key not in done:
                index = (first + key[1]) * group.vectors + key[0]
                row = [let(half[index, i, j, lanes(i32(0), n)]) for j in range(t.n)]
                done[key] = output_transform(t.AT, row, isa)
            z = done[key][p % t.m]
            return isa.mul(z, t.inverse) if t.inverse != 1 else z

        vectors = range(group.first, group.first + group.vectors)
        epilogue.emit(
            e,
            accumulator,
            t.m * self.together,
            let(y),
            let(x),
            context.constants,
            {r: context.rows[r] for r in e.residuals},
            replace(context.output, streaming=self.streams),
            vectors,
        )


def _int16_operations(n: int) -> tuple[Combine, Combine, Callable[[Vector, int], Vector]]:
    def scale(v: Vector, k: int) -> Vector:
        if k == 1:
            return v
        power = k.bit_length() - 1
        return v << splat(power, "int16", n) if k == 1 << power else v * splat(k, "int16", n)

    return (lambda a, b: a + b), (lambda a, b: a - b), scale


def _words(channels: int, isa: Isa) -> int:
    whole = isa.lanes
    while whole >= channels and whole > 1:  # fewer channels than a vector of int16 holds
        whole //= 2
    return -(-channels // (2 * whole)) * whole


def columnwise(isa: Isa) -> bool:
    """Enough registers for the accumulators of a column of frequencies."""
    return isa.registers >= 32


def tile_block(isa: Isa, vectors: int, tiles: int) -> int:
    """Tiles of a register block: the largest divisor of `tiles` that the registers hold."""
    most = max(1, isa.registers * 3 // 4 // vectors)
    return max(d for d in range(1, tiles + 1) if tiles % d == 0 and d <= most)


def winograd(
    stage: Stage,
    size: tuple[int, int],
    e: Epilogue,
    source: Layout,
    zero: int,
    t: Transform,
    proof: Proof,
    tiles: int,
) -> Winograd:
    """The Winograd kernel of `e.conv`, for which `proof` holds.

    Args:
        e: with shift = t.shift.
        zero: the stored form of a real zero of the input.
        tiles: neighbouring tiles computed together, at most width / m.
    """
    parts = groups(e, 3, 2 if columnwise(e.isa) else 3)
    lane_count = e.vectors * e.isa.lanes
    U = t.weights(e.conv.weight)[:, e.order]
    bias = folded_bias(e.conv, zero).astype(np.int64) * t.factor
    start = np.zeros((2, lane_count), np.int32)
    start[1, : len(e.order)] = bias[e.order].astype(np.uint32).view(np.int32)
    constants: dict[str, NDArray[np.generic]] = dict(epilogue.prepare(e))
    constants["start"] = start
    for i, group in enumerate(parts):
        first = group.first
        for j, vectors in enumerate(group.blocks):
            constants[f"U{i}_{j}"] = _packed(
                U, first * e.isa.lanes, vectors * e.isa.lanes, columnwise(e.isa)
            )
            first += vectors
    choice = (
        f"F({t.m}x{t.m},3x3), {tiles} tiles; uses {proof.output:.2f} of the int32 bound, "
        f"{proof.weight:.2f} and {proof.input:.2f} of int16"
    )
    return Winograd(stage, size[0], size[1], constants, choice, e, source, t, tiles, parts)


def _packed(U: NDArray[np.int64], first: int, count: int, by_column: bool) -> NDArray[np.int16]:
    """[i j, O, I] to [i j][I / 2][lane][2], or [j][I / 2][i][lane][2], flat int16.

    Args:
        first, count: lanes of a register block.
    """
    frequencies, _, channels = U.shape
    words, n = -(-channels // 2), math.isqrt(frequencies)
    part = U[:, first : first + count]
    padded = np.zeros((frequencies, count, 2 * words), np.int16)
    padded[:, : part.shape[1], :channels] = part
    split = padded.reshape(n, n, count, words, 2)
    return split.transpose((1, 3, 0, 2, 4) if by_column else (0, 1, 3, 2, 4)).reshape(-1)
