"""Winograd convolution in exact integers, F(4x4, 3x3) and F(2x2, 3x3); the algebra is `algebra`.

For a row of `tiles` neighbouring m x m output tiles:
    V[j, i, t, c] = (B^T d B)[i, j] of the stored activations d of tile t, channel c   (int16)
    M[j, i, t, o] = start[i, j, o] + sum over c of V[j, i, t, c] U[i, j, o, c]         (mod 2^32)
    (A^T M A)[t, o] * inverse = 2^shift acc                                            (mod 2^32)
with n^2 frequencies (i, j), n = m + 2. start is factor * b' at the frequency of the points (1, 1),
which adds b' to every output; zero points and the stored offset are folded into b' as in `direct`.
`algebra.prove` shows that V and U fit int16 and that 2^shift acc fits int32, so nothing is lost.

`inputs` makes V, `products` makes M, in register blocks. With 32 registers these hold a column of
frequencies: A^T follows at once and M is never stored; and V of the next tiles is made between the
products of these (`weave`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir

from compiler.kernels import epilogue, finish, linear
from compiler.kernels.algebra import Proof, Transform
from compiler.kernels.builder import (
    i32,
    lanes,
    let,
    local,
    serial,
    store,
    when,
)
from compiler.kernels.conv import ConvKernel, folded_bias
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.inputs import Inputs
from compiler.kernels.isa import Expr
from compiler.kernels.kernel import Context
from compiler.kernels.linear import Vector
from compiler.kernels.products import Products
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Stage
from compiler.kernels.weave import Task, Woven

WIDEST = 3  # vectors of output channels whose epilogue is emitted together, where segments allow


@dataclass(frozen=True, eq=False)
class Winograd(ConvKernel):
    """The Winograd kernel of one conv for one image size."""

    inputs: Inputs
    groups: list[Products]

    @property
    def t(self) -> Transform:
        """The transform."""
        return self.inputs.t

    @property
    def tiles(self) -> int:
        """Neighbouring tiles computed together."""
        return self.inputs.tiles

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

    @property
    def ahead(self) -> bool:
        """The input of the next tiles is transformed between the products of these."""
        return self.inputs.copies > 1

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """Buffers of the transforms: columns, V, M, and half-transformed outputs."""
        t, n = self.t, self.isa.lanes
        widest = max(g.vectors for g in self.groups)
        kept = self.tiles if self.by_column else self.together
        scratch = {
            **self.inputs.allocate(),
            "half": local((kept * widest, t.m, t.n, n), "int32"),
        }
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
        source, top = context.rows[self.conv.input], self.conv.pads[0]
        slots = [source.slot(y - top + i) for i in range(self.t.n)]
        inputs = partial(self.inputs.tasks, context.scratch, source, slots)
        count = -(-self.width // (self.t.m * self.tiles))
        if self.ahead:
            for task in inputs(i32(0)):
                task.alone()
        with serial(count) as index:
            if not self.ahead:
                for task in inputs(index):
                    task.alone()
            following = inputs(index + 1) if self.ahead else []
            for group in self.groups:
                for vectors, between in self._beside(group, following, index + 1 < count):
                    group.emit(
                        context.scratch["V"],
                        self.inputs.first_j(index),
                        vectors,
                        context.constants,
                        partial(self._keep, context.scratch, group),
                        between,
                    )
                self._output(context, group, y, self.inputs.x(index))

    def _beside(
        self, group: Products, following: list[Task], wanted: Expr
    ) -> list[tuple[range, Woven | None]]:
        """The vectors of a group, and what is computed beside their products.

        The first half of all vectors goes with B^T d of the next tiles, the rest with (B^T d) B.
        """
        mine = range(group.first, group.first + group.vectors)
        if not following:
            return [(mine, None)]
        half, end = self.epilogue.vectors // 2, self.epilogue.vectors
        parts: list[tuple[range, Woven | None]] = []
        for task, part in zip(following, (range(half), range(half, end)), strict=True):
            both = range(max(part.start, mine.start), min(part.stop, mine.stop))
            if both:
                parts.append((both, Woven(task, part, self.t.n, wanted)))
        return parts

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
    ahead = parts[0].by_column and e.vectors > 1
    inputs = Inputs(e.isa, t, source, e.conv.pads[1], size[1], tiles, 2 if ahead else 1)
    return Winograd(stage, *size, constants, choice, e, source, inputs, parts)
