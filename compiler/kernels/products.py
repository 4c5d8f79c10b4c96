"""Products of Winograd's transformed tiles and weights, in register blocks.

    M[j, i, t, o] = start[i, j, o] + sum over c of V[j, i, t, c] U[i, j, o, c]   mod 2^32
for frequencies (i, j), tiles t, output channels o (lanes of vectors), input channels c (two to a
word). A block of frequencies x tiles x vectors stays in registers over the whole sum; each word of
V is read where it is used, as the broadcast operand of the dot product. With 32 registers a block
holds a column of frequencies (all i of one j), so that A^T can follow at once; with 16 it holds one
frequency, since a vector of U must then serve more tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.algebra import Transform
from compiler.kernels.builder import i32, lanes, let, register, reinterpret, serial, splat, store
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.linear import Vector
from compiler.kernels.weave import Woven

WIDEST = 3  # vectors of a block that holds one frequency
RUN = 2  # words of input channels between which other work may be emitted

# Gets (j, [i], tile, vector, sums): finished sums of one frequency, or of all i of a column.
Keep = Callable[[Expr, list[Expr], Expr, Expr, list[Vector]], None]
Sums = list[list[list[Expr]]]  # registers of a block: [i][tile][vector]


@dataclass(frozen=True)
class Block:
    """Accumulators in registers."""

    frequencies: int
    tiles: int
    vectors: int


@dataclass(frozen=True, eq=False)
class Products:
    """The products of some vectors of output channels.

    Attributes:
        channels: of the input.
        tiles: neighbouring tiles computed together.
        first, vectors: the vectors of output channels.
    """

    isa: Isa
    t: Transform
    channels: int
    tiles: int
    first: int
    vectors: int

    @property
    def words(self) -> int:
        """Words of two input channels."""
        return -(-self.channels // 2)

    @property
    def by_column(self) -> bool:
        """A block holds a column of frequencies."""
        return self.isa.registers >= 32

    @property
    def block(self) -> Block:
        """The register block: about three quarters of the registers."""
        most = self.isa.registers * 3 // 4
        kept, width = self.t.n, 1
        if not self.by_column:
            kept, width = 1, max(w for w in range(1, WIDEST + 1) if self.vectors % w == 0)
        tiles = [d for d in range(1, self.tiles + 1) if self.tiles % d == 0]
        return Block(kept, max(d for d in tiles if d * width * kept <= most or d == 1), width)

    def pack(self, U: NDArray[np.int64]) -> NDArray[np.int16]:
        """[i j, O, I] to [V / v][j][i / f][I / 2][f][v][lane][2], flat: as `emit` reads it."""
        n, lanes_, f, v = self.t.n, self.isa.lanes, self.block.frequencies, self.block.vectors
        part = U[:, self.first * lanes_ :][:, : self.vectors * lanes_]
        padded = np.zeros((n * n, self.vectors * lanes_, 2 * self.words), np.int16)
        padded[:, : part.shape[1], : self.channels] = part
        split = padded.reshape(n // f, f, n, -1, v, lanes_, self.words, 2)
        return split.transpose(3, 2, 0, 6, 1, 4, 5, 7).reshape(-1)

    def emit(
        self,
        V: Expr,
        first_j: Expr,
        vectors: range,
        constants: Mapping[str, Expr],
        keep: Keep,
        between: Woven | None = None,
    ) -> None:
        """Emits the blocks of some vectors, in order.

        Args:
            V: int32 buffer [j, i, tile, word], read from `first_j`.
            constants: `U`, the packed weights of every group, and `start` int32 [2, lanes].
            between: other work, emitted between the runs of dot products.
        """
        n, block = self.t.n, self.block
        with (
            serial(len(vectors) // block.vectors) as v,
            serial(n * n // block.frequencies) as f,
            serial(self.tiles // block.tiles) as b,
        ):
            if self.by_column:
                j, rows = f, [i32(i) for i in range(n)]
            else:
                j, rows = let(T.floordiv(f, n)), [let(T.floormod(f, n))]
            tile, vector = let(b * block.tiles), let(vectors.start + v * block.vectors)
            base = let((vector * (n * n) + f * block.frequencies * block.vectors) * self.words)
            sums = self._start(constants["start"], j, rows, vector)
            runs = [range(k, min(k + RUN, self.words)) for k in range(0, self.words, RUN)]
            for run in [range(self.words)] if between is None else runs:
                self._add(sums, V, constants["U"], base, run, let(first_j + j), rows, tile)
                if between is not None and (run.stop < self.words or len(runs) == 1):
                    between.emit(vector, j, run.start // RUN, max(1, len(runs) - 1))
            for p in range(block.tiles):
                for w in range(block.vectors):
                    sum_ = [let(row[p][w][lanes(i32(0), self.isa.lanes)]) for row in sums]
                    keep(j, rows, tile + p, vector - self.first + w, sum_)

    def _start(self, start: Expr, j: Expr, rows: list[Expr], vector: Expr) -> Sums:
        """New sums: the bias at the frequency of the points (1, 1), zero elsewhere."""
        n, block, unit = self.isa.lanes, self.block, self.t.unit
        tiles, vectors = range(block.tiles), range(block.vectors)
        sums = [[[register(n) for _ in vectors] for _ in tiles] for _ in rows]
        at_unit = unit if self.by_column else 0
        here = let(T.Select(tir.all(rows[at_unit] == unit, j == unit), i32(1), i32(0)))
        for v in vectors:
            bias = let(start[here, lanes((vector + v) * n, n)])
            for i, row in enumerate(sums):
                for tile in row:
                    first = bias if i == at_unit else splat(0, "int32", n)
                    store(tile[v], first, [lanes(i32(0), n)])
        return sums

    def _add(
        self,
        sums: Sums,
        V: Expr,
        U: Expr,
        base: Expr,
        run: range,
        j: Expr,
        rows: list[Expr],
        tile: Expr,
    ) -> None:
        """Adds the products of a run of words; `base` is the block's first vector of U."""
        isa, n, block = self.isa, self.isa.lanes, self.block
        whole = lanes(i32(0), n)
        with serial(len(run)) as step:
            k = let(step + run.start)
            for i, row in enumerate(rows):
                for v in range(block.vectors):
                    at = base + (k * block.frequencies + i) * block.vectors + v
                    u = let(reinterpret(isa.vector, U[lanes(at * 2 * n, 2 * n)]))
                    for p in range(block.tiles):
                        acc, word = sums[i][p][v], V[j, row, tile + p, k]
                        store(acc, isa.dot16_at(acc[whole], T.address_of(word), u), [whole])
