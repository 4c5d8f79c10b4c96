"""Products of Winograd's transformed tiles and weights, in register blocks.

    M[j, i, t, o] = start[i, j, o] + sum over c of V[j, i, t, c] U[i, j, o, c]   mod 2^32
(inner products: without start, and more by a constant) for frequencies (i, j), tiles t, output
channels o (lanes of vectors), input channels c (two to a word). A block of frequencies x tiles x
vectors stays in registers over the whole sum; each word of V is read where it is used, as the
broadcast operand of the dot product. With 32 registers a block holds a column of frequencies (all i
of one j), so that A^T can follow at once. Where it holds less, since a vector of U or a word of V
must serve more products, M keeps the column for A^T.

Inner products (Winograd 1968, "A New Algorithm for Inner Product") trade half of the products for
additions. For channels in pairs (c, d), with the half that does not mix V and U known beforehand:
    sum V_c U_c + V_d U_d = sum (V_c + U_d) (V_d + U_c) - sum V_c V_d - sum U_c U_d
sum U_c U_d is a constant and left to the epilogue, sum V_c V_d is `Inputs`' to compute, for all
output channels at once;
`algebra.prove` shows that V + U fits int16. A word of two channels is paired with the next one, so
that two dot products become two additions (of int16, two channels each) and one dot product: less
where additions run beside dot products (`Isa.adds_beside`: 1.5 for 2 cycles on Zen 4), since then
every vector pipe is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.algebra import Transform
from compiler.kernels.builder import (
    i32,
    lanes,
    let,
    local,
    register,
    reinterpret,
    serial,
    splat,
    store,
)
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.linear import Vector
from compiler.kernels.weave import Woven

WIDEST = 3  # vectors of a block that does not hold a column
RUN = 2  # words of input channels between which other work may be emitted

Column = Callable[[Expr, Expr, Expr, list[Vector]], None]  # (j, tile, vector, sums of all i)
First = Callable[[int, int, int], Vector]  # (i, tile, vector) of a block: where its sum starts
Sums = list[list[list[Expr]]]  # registers of a block: [i][tile][vector]


@dataclass(frozen=True)
class Block:
    """Accumulators in registers."""

    frequencies: int
    tiles: int
    vectors: int


@dataclass(frozen=True)
class Place:
    """Where a block stands.

    Attributes:
        j, rows: its frequencies (rows, j); V of this group of tiles has them at `source`.
        tile, vector: its first ones.
    """

    j: Expr
    source: Expr
    rows: list[Expr]
    tile: Expr
    vector: Expr


@dataclass(frozen=True, eq=False)
class Products:
    """The products of some vectors of output channels.

    Attributes:
        channels: of the input.
        tiles: neighbouring tiles computed together.
        first, vectors: the vectors of output channels.
        paired: as inner products of pairs of channels.
    """

    isa: Isa
    t: Transform
    channels: int
    tiles: int
    first: int
    vectors: int
    paired: bool

    @property
    def words(self) -> int:
        """Words of two input channels."""
        return -(-self.channels // 2)

    @property
    def by_column(self) -> bool:
        """A block holds a column of frequencies: M is not stored."""
        return self.block.frequencies == self.t.n

    @property
    def block(self) -> Block:
        """The register block: all registers but three for each of its vectors.

        Those hold weights and products on their way. Inner products load a word of V into a
        register, which should serve many vectors; otherwise with 32 registers one vector leaves
        room for a whole column.
        """
        n, registers = self.t.n, self.isa.registers
        width = block_width(self.vectors)
        if registers >= 32 and not self.paired:
            width = 1
        most = registers - 3 * width
        wanted = min(self.tiles, 4) * width if registers >= 32 else most
        kept = max(f for f in range(1, n + 1) if n % f == 0 and (f * wanted <= most or f == 1))
        divisors = [d for d in range(1, self.tiles + 1) if self.tiles % d == 0]
        for room in (most, most + width - 1):  # tight, where else each tile would be alone
            tiles = max(d for d in divisors if d * width * kept <= room or d == 1)
            if tiles > 1:
                break
        return Block(kept, tiles, width)

    def allocate(self) -> dict[str, Expr]:
        """M [i, tile, vector, lane] of one column, where a block does not hold it."""
        shape = (self.t.n, self.tiles, self.block.vectors, self.isa.lanes)
        return {} if self.by_column else {"M": local(shape, "int32")}

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
        scratch: Mapping[str, Expr],
        first_j: Expr,
        vectors: range,
        constants: Mapping[str, Expr],
        column: Column,
        between: Woven | None = None,
    ) -> None:
        """Emits the blocks of some vectors, in order.

        Args:
            scratch: `V`, int32 [j, i, tile, word], read from `first_j`, and where paired `VV`
                [i, tile, j] (`Inputs`).
            constants: `U`, the packed weights of every group, and where not paired `start`, int32
                [2, lane].
            column: gets every column of sums.
            between: other work, emitted between the runs of dot products.
        """
        n, block = self.t.n, self.block
        with serial(len(vectors) // block.vectors) as v, serial(n) as j:
            vector, source = let(vectors.start + v * block.vectors), let(first_j + j)
            with serial(n // block.frequencies) as f, serial(self.tiles // block.tiles) as b:
                rows = [let(f * block.frequencies + i) for i in range(block.frequencies)]
                place = Place(j, source, rows, let(b * block.tiles), vector)
                sums = self._start(scratch, constants, place)
                for run, slot in self._runs(between):
                    add = self._add_pairs if self.paired else self._add
                    add(sums, scratch["V"], constants["U"], run, place)
                    if between is not None:
                        between.emit(vector, j, *slot)
                self._finish(sums, scratch, place, column)
            if not self.by_column:
                self._columns(scratch["M"], j, vector, column)

    def _runs(self, between: Woven | None) -> list[tuple[range, tuple[int, int]]]:
        """Words whose products are emitted together, and which slot of `between` follows them."""
        if between is None:
            return [(range(self.words), (0, 1))]
        starts = range(0, self.words, RUN)
        slots = max(1, len(starts) - 1)  # nothing after the last run, unless it is the only one
        return [(range(k, min(k + RUN, self.words)), (i, slots)) for i, k in enumerate(starts)]

    def _start(
        self, scratch: Mapping[str, Expr], constants: Mapping[str, Expr], place: Place
    ) -> Sums:
        """New sums."""
        n, block = self.isa.lanes, self.block
        first = self._known(scratch["VV"], place) if self.paired else self._bias(constants, place)
        sums = [
            [[register(n) for _ in range(block.vectors)] for _ in range(block.tiles)]
            for _ in place.rows
        ]
        for i, row in enumerate(sums):
            for p, tile in enumerate(row):
                for v, total in enumerate(tile):
                    store(total, first(i, p, v), [lanes(i32(0), n)])
        return sums

    def _known(self, VV: Expr, place: Place) -> First:
        """VV, which is negative."""
        return lambda i, p, _: T.broadcast(
            VV[place.rows[i], place.tile + p, place.j], self.isa.lanes
        )

    def _bias(self, constants: Mapping[str, Expr], place: Place) -> First:
        """The bias at the frequency of the points (1, 1), zero elsewhere."""
        n, unit = self.isa.lanes, self.t.unit
        at_unit = unit % self.block.frequencies
        here = let(T.Select(tir.all(place.rows[at_unit] == unit, place.j == unit), i32(1), i32(0)))
        vectors = [lanes((place.vector + v) * n, n) for v in range(self.block.vectors)]
        biases = [let(constants["start"][here, at]) for at in vectors]
        return lambda i, _, v: biases[v] if i == at_unit else splat(0, "int32", n)

    def _weights(self, U: Expr, i: int, k: Expr, place: Place) -> list[Vector]:
        """Word k of the weights of the block's frequency i, for each of its vectors."""
        n, block = self.isa.lanes, self.block
        frequency = (place.vector * self.t.n + place.j * block.vectors) * self.t.n
        base = (frequency + place.rows[0] * block.vectors) * self.words
        at = [base + (k * block.frequencies + i) * block.vectors + v for v in range(block.vectors)]
        return [let(reinterpret(self.isa.vector, U[lanes(a * 2 * n, 2 * n)])) for a in at]

    def _add(self, sums: Sums, V: Expr, U: Expr, run: range, place: Place) -> None:
        """Adds the products of a run of words."""
        whole = lanes(i32(0), self.isa.lanes)
        with serial(len(run)) as step:
            k = let(step + run.start)
            for i, row in enumerate(sums):
                weights = self._weights(U, i, k, place)
                for p, tile in enumerate(row):
                    word = T.address_of(V[place.source, place.rows[i], place.tile + p, k])
                    for v, u in enumerate(weights):
                        store(tile[v], self.isa.dot16_at(tile[v][whole], word, u), [whole])

    def _add_pairs(self, sums: Sums, V: Expr, U: Expr, run: range, place: Place) -> None:
        """Adds (V_c + U_d) (V_d + U_c) of a run of words: c in every other one, d in the next."""
        n, isa = self.isa.lanes, self.isa
        whole = lanes(i32(0), n)
        with serial(len(run) // 2) as step:
            k = let(2 * step + run.start)
            for i, row in enumerate(sums):
                weights = [self._weights(U, i, word, place) for word in (k, k + 1)]
                for p, tile in enumerate(row):
                    c, d = (
                        let(T.broadcast(V[place.source, place.rows[i], place.tile + p, word], n))
                        for word in (k, k + 1)
                    )
                    for v, (u_c, u_d) in enumerate(zip(*weights, strict=True)):
                        a, b = isa.add16(c, u_d), isa.add16(d, u_c)
                        store(tile[v], isa.dot16_(tile[v][whole], a, b), [whole])

    def _finish(
        self, sums: Sums, scratch: Mapping[str, Expr], place: Place, column: Column
    ) -> None:
        """Hands a whole column on, or stores what there is of it."""
        whole = lanes(i32(0), self.isa.lanes)
        for p in range(self.block.tiles):
            for v in range(self.block.vectors):
                done = [let(row[p][v][whole]) for row in sums]
                tile, vector = place.tile + p, place.vector + v
                if self.by_column:
                    column(place.j, tile, vector, done)
                else:
                    for i, z in zip(place.rows, done, strict=True):
                        store(scratch["M"], z, [i, tile, v, whole])

    def _columns(self, M: Expr, j: Expr, vector: Expr, column: Column) -> None:
        """Hands on the columns of all tiles that are stored."""
        whole = lanes(i32(0), self.isa.lanes)
        with serial(self.tiles) as tile:
            for v in range(self.block.vectors):
                done = [let(M[i, tile, v, whole]) for i in range(self.t.n)]
                column(j, tile, vector + v, done)


def block_width(vectors: int) -> int:
    """How many of some vectors a block holds, unless one is better."""
    return max(w for w in range(1, WIDEST + 1) if vectors % w == 0)


def split(products: Products) -> list[Products]:
    """Inner products of vectors that only blocks of one divide, as some that wider blocks do."""
    first, count = products.first, products.vectors
    if not products.paired or block_width(count) > 1:
        return [products]
    return [
        replace(products, first=first + start, vectors=min(WIDEST, count - start))
        for start in range(0, count, WIDEST)
    ]
