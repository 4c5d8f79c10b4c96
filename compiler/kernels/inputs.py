"""The input of a Winograd convolution: V = B^T d B of neighbouring tiles, as tasks of small pieces.

B^T d runs over contiguous elements of n rows of pixels, all tiles at once, since neighbouring tiles
share two columns of pixels; (B^T d) B runs tile by tile. int16 holds both (`algebra.prove`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels import linear
from compiler.kernels.algebra import Transform
from compiler.kernels.builder import (
    cast,
    i32,
    lanes,
    let,
    local,
    reinterpret,
    shuffle,
    splat,
    store,
)
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.linear import Vector
from compiler.kernels.rows import Layout, Rows
from compiler.kernels.weave import Task


@dataclass(frozen=True, eq=False)
class Inputs:
    """The input transform of one conv.

    Attributes:
        source: layout of the conv's input; left: zeros before its first pixel.
        width: of the output.
        tiles: neighbouring tiles transformed together, a group.
        copies: of V, 2 where one group is read while the next is written.
        paired: VV is wanted: what inner products (`products`) add of V alone. Then copies is 1.
    """

    isa: Isa
    t: Transform
    source: Layout
    left: int
    width: int
    tiles: int
    copies: int
    paired: bool

    @property
    def words(self) -> int:
        """32-bit words (two channels) of a V vector, padded to whole vectors."""
        return _words(self.source.channels, self.isa)

    @property
    def pieces(self) -> int:
        """Vectors of int16 that hold the pixels of a row."""
        return -(-(self.t.m * self.tiles + 2) * self.source.channels // (2 * self.isa.lanes))

    def allocate(self) -> dict[str, Expr]:
        """columns = B^T d [i, element], with slack for vector loads; V [copy j, i, tile, word].

        VV [i, tile, j], where it is wanted: less the sum of V_c V_d over the paired channels.
        """
        n = self.t.n
        scratch = {
            "columns": local((n, 2 * self.isa.lanes * self.pieces + 128), "int16"),
            "V": local((self.copies * n, n, self.tiles, self.words), "int32"),
        }
        if self.paired:
            scratch["VV"] = local((n, self.tiles, self.isa.lanes), "int32")
        return scratch

    def x(self, group: Expr) -> Expr:
        """The first pixel of a group; the last group may overlap the one before."""
        span = self.t.m * self.tiles
        return let(T.min(group * span, i32(self.width - span)))

    def first_j(self, group: Expr) -> Expr:
        """Where V of a group begins."""
        return let(T.bitwise_and(group, 1) * self.t.n) if self.copies > 1 else i32(0)

    def tasks(
        self, scratch: Mapping[str, Expr], rows: Rows, slots: list[Expr], group: Expr
    ) -> list[Task]:
        """B^T d, then (B^T d) B, of a group of tiles; `slots` are the n rows of pixels."""
        t, channels = self.t, self.source.channels
        columns, V = scratch["columns"], scratch["V"]

        def by_row(piece: Expr) -> None:
            wide = 2 * self.isa.lanes
            at = lanes(let(self.source.at(self.x(group) - self.left) + piece * wide), wide)
            d = [let(cast("int16", wide, rows.buffer[slot, at])) for slot in slots]
            for i, v in enumerate(linear.by_rows(t.BT, d, linear.int16(wide))):
                store(columns, v, [i, lanes(piece * wide, wide)])

        def by_tile(piece: Expr) -> None:
            i, tile = let(T.truncdiv(piece, self.tiles)), let(T.truncmod(piece, self.tiles))
            first_j, wide = self.first_j(group), min(2 * self.isa.lanes, 2 * self.words)
            products: list[Expr] = []
            for c in range(0, 2 * self.words, wide):
                at = [lanes((tile * t.m + j) * channels + c, wide) for j in range(t.n)]
                d = [let(columns[i, a]) for a in at]
                row = linear.by_rows(t.BT, d, linear.int16(wide))
                words = [let(reinterpret(f"int32x{wide // 2}", v)) for v in row]
                for j, word in enumerate(words):
                    store(V, word, [first_j + j, i, tile, lanes(i32(c // 2), wide // 2)])
                if self.paired:
                    products = self._add_pairs(products, words)
            if self.paired:
                totals = linear.totals(products, 2, self.isa)
                less = self.isa.sub(splat(0, "int32", self.isa.lanes), totals)
                store(scratch["VV"], less, [i, tile, lanes(i32(0), self.isa.lanes)])

        return [Task(self.pieces, by_row), Task(t.n * self.tiles, by_tile)]

    def _add_pairs(self, sums: list[Vector], words: list[Vector]) -> list[Vector]:
        """Adds the products of each word and the next, of two vectors side by side."""
        n = self.isa.lanes
        result = []
        for j in range(0, len(words), 2):
            c, d = (let(shuffle(words[j : j + 2], range(first, 2 * n, 2))) for first in (0, 1))
            acc = sums[j // 2] if sums else splat(0, "int32", n)
            result.append(let(self.isa.dot16_(acc, c, d)))
        return result


def _words(channels: int, isa: Isa) -> int:
    whole = isa.lanes
    while whole >= channels and whole > 1:  # fewer channels than a vector of int16 holds
        whole //= 2
    return -(-channels // (2 * whole)) * whole
