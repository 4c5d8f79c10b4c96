"""Products of Winograd's transformed tiles and weights, in register blocks.

    M[j, i, t, o] = start[i, j, o] + sum over c of V[j, i, t, c] U[i, j, o, c]   mod 2^32
for frequencies (i, j), tiles t, output channels o (lanes of vectors), input channels c (two to a
word). A block of frequencies x tiles x vectors stays in registers over the whole sum; each word of
V is read where it is used, as the broadcast operand of the dot product. With 32 registers a block
holds a column of frequencies (all i of one j), so that A^T can follow at once; with 16 it holds one
frequency, since a vector of U must then serve more tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.algebra import Transform
from compiler.kernels.builder import i32, lanes, let, register, reinterpret, serial, store
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.linear import Vector

WIDEST = 3  # vectors of a block that holds one frequency

# Gets (j, [i], tile, vector, sums): finished sums of one frequency, or of all i of a column.
Keep = Callable[[Expr, list[Expr], Expr, Expr, list[Vector]], None]


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

    def emit(self, V: Expr, constants: Mapping[str, Expr], keep: Keep) -> None:
        """Emits all blocks.

        Args:
            V: int32 buffer [j, i, tile, word].
            constants: `U`, the packed weights of every group, and `start` int32 [2, lanes].
        """
        n, block = self.t.n, self.block
        with (
            serial(self.vectors // block.vectors) as v,
            serial(n * n // block.frequencies) as f,
            serial(self.tiles // block.tiles) as b,
        ):
            if self.by_column:
                j, rows = f, [i32(i) for i in range(n)]
            else:
                j, rows = let(T.floordiv(f, n)), [let(T.floormod(f, n))]
            tile, vector = let(b * block.tiles), let(v * block.vectors)
            base = (self.first + vector) * (n * n) + f * block.frequencies * block.vectors
            sums = self._sums(V, constants["U"], let(base * self.words), j, rows, tile)
            self._add_bias(sums, constants["start"], j, rows, self.first + vector)
            for p in range(block.tiles):
                for w in range(block.vectors):
                    keep(j, rows, tile + p, vector + w, [let(row[p][w]) for row in sums])

    def _sums(
        self, V: Expr, U: Expr, base: Expr, j: Expr, rows: list[Expr], tile: Expr
    ) -> list[list[list[Vector]]]:
        """The sums of one block, [i][tile][vector]; `base` is its first vector of U."""
        isa, n, block = self.isa, self.isa.lanes, self.block
        whole = lanes(i32(0), n)
        tiles, vectors = range(block.tiles), range(block.vectors)
        sums = [[[register(n) for _ in vectors] for _ in tiles] for _ in rows]

        def terms(k: Expr) -> Iterator[tuple[Expr, Expr, Vector]]:
            for i, row in enumerate(rows):
                for v in vectors:
                    at = base + (k * block.frequencies + i) * block.vectors + v
                    u = let(reinterpret(isa.vector, U[lanes(at * 2 * n, 2 * n)]))
                    for p in tiles:
                        yield sums[i][p][v], V[j, row, tile + p, k], u

        for acc, word, u in terms(i32(0)):
            store(acc, isa.product16(T.broadcast(word, n), u), [whole])
        with serial(self.words - 1) as k:
            for acc, word, u in terms(let(k + 1)):
                store(acc, isa.dot16_at(acc[whole], T.address_of(word), u), [whole])
        return [[[acc[whole] for acc in tile_] for tile_ in row] for row in sums]

    def _add_bias(
        self,
        sums: list[list[list[Vector]]],
        start: Expr,
        j: Expr,
        rows: list[Expr],
        vector: Expr,
    ) -> None:
        """The bias enters at the frequency of the points (1, 1)."""
        unit, n = self.t.unit, self.isa.lanes
        i = unit if self.by_column else 0
        here = let(T.Select(tir.all(rows[i] == unit, j == unit), i32(1), i32(0)))
        for v in range(self.block.vectors):
            bias = let(start[here, lanes((vector + v) * n, n)])
            for tile in sums[i]:
                tile[v] = self.isa.add(tile[v], bias)
