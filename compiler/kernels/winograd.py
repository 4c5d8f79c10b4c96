"""Winograd convolution in exact integers, F(4x4, 3x3) and F(2x2, 3x3); the algebra is `algebra`.

For a row of `tiles` neighbouring m x m output tiles:
    V[j, i, t, c] = (B^T d B)[i, j] of the stored activations d of tile t, channel c   (int16)
    M[j, i, t, o] = start[i, j, o] + sum over c of V[j, i, t, c] U[i, j, o, c]         (mod 2^32)
    (A^T M A)[t, o] * inverse = 2^shift acc                                            (mod 2^32)
with n^2 frequencies (i, j), n = m + 2. start is factor * b' at the frequency of the points (1, 1),
which adds b' to every output; zero points and the stored offset are folded into b' as in `direct`.
`algebra.prove` shows that V and U fit int16 and that 2^shift acc fits int32, so nothing is lost.

`products` makes M, in register blocks; where these hold a column of frequencies, A^T follows at
once and M is never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels import epilogue, finish, linear
from compiler.kernels.algebra import Proof, Transform
from compiler.kernels.builder import (
    cast,
    i32,
    lanes,
    let,
    local,
    reinterpret,
    serial,
    store,
    when,
)
from compiler.kernels.conv import ConvKernel, folded_bias
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Context
from compiler.kernels.linear import Vector
from compiler.kernels.products import Products
from compiler.kernels.rows import Layout, Rows
from compiler.kernels.schedule import Stage

WIDEST = 3  # vectors of output channels whose epilogue is emitted together, where segments allow


@dataclass(frozen=True, eq=False)
class Winograd(ConvKernel):
    """The Winograd kernel of one conv for one image size."""

    t: Transform
    tiles: int  # neighbouring tiles computed together
    groups: list[Products]

    @property
    def words(self) -> int:
        """32-bit words (two channels) of a V vector, padded to whole vectors."""
        return _words(self.source.channels, self.isa)

    @property
    def by_column(self) -> bool:
        """A^T follows the products in registers; M is not stored."""
        return self.groups[0].by_column

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

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """Buffers of the transforms: columns, V, M, and half-transformed outputs."""
        t, n = self.t, self.isa.lanes
        widest = max(g.vectors for g in self.groups)
        reach = (t.m * self.tiles + 2) * self.source.channels
        scratch = {
            "columns": local((t.n, -(-reach // 64) * 64 + 128), "int16"),
            "V": local((t.n, t.n, self.tiles, self.words), "int32"),
        }
        kept = self.tiles if self.by_column else self.together
        scratch["half"] = local((kept * widest, t.m, t.n, n), "int32")
        if not self.by_column:
            scratch["M"] = local((t.n, t.n, self.tiles, widest, n), "int32")
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
        with serial(-(-self.width // span)) as index:
            x = let(T.min(index * span, i32(self.width - span)))
            self._input(context.scratch, source, slots, self.source.at(x - left))
            for group in self.groups:
                scratch = context.scratch
                group.emit(scratch["V"], context.constants, partial(self._keep, scratch, group))
                self._output(context, group, y, x)

    def _input(
        self, scratch: Mapping[str, Expr], source: Rows, slots: list[Expr], start: Expr
    ) -> None:
        """V = B^T d B: rows first, over contiguous elements, then columns of each tile."""
        t, channels = self.t, self.source.channels
        columns, V = scratch["columns"], scratch["V"]
        wide = 2 * self.isa.lanes
        with serial(-(-(t.m * self.tiles + 2) * channels // wide)) as k:
            at = lanes(start + k * wide, wide)
            d = [let(cast("int16", wide, source.buffer[slot, at])) for slot in slots]
            for i, v in enumerate(linear.by_rows(t.BT, d, linear.int16(wide))):
                store(columns, v, [i, lanes(k * wide, wide)])
        wide = min(wide, 2 * self.words)
        with serial(t.n) as i, serial(self.tiles) as tile:
            for c in range(0, 2 * self.words, wide):
                at = [lanes((tile * t.m + j) * channels + c, wide) for j in range(t.n)]
                d = [let(columns[i, a]) for a in at]
                for j, v in enumerate(linear.by_rows(t.BT, d, linear.int16(wide))):
                    word = reinterpret(f"int32x{wide // 2}", v)
                    store(V, word, [j, i, tile, lanes(i32(c // 2), wide // 2)])

    def _keep(
        self, scratch: Mapping[str, Expr], group: Products, j: Expr, rows: list[Expr], tile: Expr,
        v: Expr, column: list[Vector],
    ) -> None:  # fmt: skip
        """Stores finished sums: one frequency to M, or A^T times a column of frequencies."""
        whole = lanes(i32(0), self.isa.lanes)
        if not group.by_column:
            store(scratch["M"], column[0], [j, rows[0], tile, v, whole])
            return
        for i, z in enumerate(linear.by_columns(self.t.AT, column, linear.modular(self.isa))):
            store(scratch["half"], z, [tile * group.vectors + v, i, j, whole])

    def _output(self, context: Context, group: Products, y: Expr, x: Expr) -> None:
        """A^T M A and the epilogue: columns of each tile, then row by row."""
        t, together = self.t, self.together
        with serial(self.tiles // together) as pair:
            tile = let(pair * together)
            if not self.by_column:
                self._columns(context.scratch, group, tile)
            first = tile if self.by_column else i32(0)
            with serial(t.m) as i, when(tir.all(y + i >= 0, y + i < self.height)):
                self._output_row(context, group, first, i, y + i, x + tile * t.m)

    def _columns(self, scratch: Mapping[str, Expr], group: Products, tile: Expr) -> None:
        """A^T M for some tiles."""
        t, M, whole = self.t, scratch["M"], lanes(i32(0), self.isa.lanes)
        with serial(t.n) as j:
            for k in range(self.together):
                for v in range(group.vectors):
                    column = [let(M[j, i, tile + k, v, whole]) for i in range(t.n)]
                    half = linear.by_columns(t.AT, column, linear.modular(self.isa))
                    for i, z in enumerate(half):
                        store(scratch["half"], z, [k * group.vectors + v, i, j, whole])

    def _output_row(
        self, context: Context, group: Products, first: Expr, i: Expr, y: Expr, x: Expr
    ) -> None:
        """The epilogue of row i of some tiles, which lie in `half` from tile `first`."""
        t, isa, e = self.t, self.isa, self.epilogue
        half, whole = context.scratch["half"], lanes(i32(0), isa.lanes)
        done: dict[tuple[int, int], list[Vector]] = {}

        def accumulator(v: int, p: int) -> Vector:
            key = (v - group.first, p // t.m)
            if key not in done:
                index = (first + key[1]) * group.vectors + key[0]
                row = [let(half[index, i, j, whole]) for j in range(t.n)]
                done[key] = linear.by_columns(t.AT, row, linear.modular(isa))
            z = done[key][p % t.m]
            return isa.mul(z, t.inverse) if t.inverse != 1 else z

        finish.emit(
            e,
            accumulator,
            t.m * self.together,
            let(y),
            let(x),
            context.constants,
            {r: context.rows[r] for r in e.residuals},
            replace(context.output, streaming=self.streams),
            range(group.first, group.first + group.vectors),
        )


def _words(channels: int, isa: Isa) -> int:
    whole = isa.lanes
    while whole >= channels and whole > 1:  # fewer channels than a vector of int16 holds
        whole //= 2
    return -(-channels // (2 * whole)) * whole


def groups(e: Epilogue) -> list[range]:
    """Splits the vectors where no segment straddles, into at most `WIDEST` where possible."""
    n, edges, lane = e.isa.lanes, {0, e.vectors}, 0
    for part in e.parts:
        lane += len(part.channels)
        if lane % n == 0:
            edges.add(lane // n)
    if e.in_order:
        edges = set(range(e.vectors + 1))
    result, first = [], 0
    while first < e.vectors:
        fitting = [v for v in edges if first < v <= first + WIDEST]
        last = max(fitting) if fitting else min(v for v in edges if v > first)
        result.append(range(first, last))
        first = last
    return result


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
    parts = [
        Products(e.isa, t, source.channels, tiles, vectors.start, len(vectors))
        for vectors in groups(e)
    ]
    U = t.weights(e.conv.weight)[:, e.order]
    bias = folded_bias(e.conv, zero).astype(np.int64) * t.factor
    start = np.zeros((2, e.vectors * e.isa.lanes), np.int32)
    start[1, : len(e.order)] = bias[e.order].astype(np.uint32).view(np.int32)
    constants: dict[str, NDArray[np.generic]] = dict(epilogue.prepare(e))
    constants |= {"start": start, "U": np.concatenate([part.pack(U) for part in parts])}
    choice = (
        f"F({t.m}x{t.m},3x3), {tiles} tiles; uses {proof.output:.2f} of the int32 bound, "
        f"{proof.weight:.2f} and {proof.input:.2f} of int16"
    )
    return Winograd(stage, *size, constants, choice, e, source, t, tiles, parts)
