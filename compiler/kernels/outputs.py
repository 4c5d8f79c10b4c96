"""The output of a Winograd convolution: Y = A^T M A of neighbouring tiles, and the fused epilogue.

A^T M is made column by column while M is (`products`) and kept, `half`, for a group of vectors;
(A^T M) A and the epilogue follow row by row of a few tiles. A large answer of bytes takes one more
step: they are gathered for all vectors, and for as many groups of tiles as make whole cache lines,
and only then put in the order of the output. So they go past the caches, and segments may begin in
one group of vectors and end in another while `half` still fits the first-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import lcm, prod

from compiler.kernels import epilogue, finish, linear, stores
from compiler.kernels.algebra import Transform
from compiler.kernels.builder import i32, inside, lanes, let, local, serial, store, when
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.isa import Expr
from compiler.kernels.kernel import Context
from compiler.kernels.linear import Vector
from compiler.kernels.stores import Output

WIDEST = 3  # vectors of output channels whose epilogue is emitted together, where segments allow
GATHERED_BYTES = 1 << 14  # at most, of lines that are not complete: half of a first-level cache


@dataclass(frozen=True, eq=False)
class Outputs:
    """The output transform and the epilogue of one conv.

    Attributes:
        height, width: of the conv's own output.
        tiles: neighbouring tiles computed together, a group.
        paired: M is more by a constant, which `rest` takes off and adds the bias (`winograd`).
    """

    e: Epilogue
    t: Transform
    height: int
    width: int
    tiles: int
    paired: bool

    @property
    def together(self) -> int:
        """Tiles whose epilogue is emitted together, to make whole output vectors."""
        wanted = max(1, self.e.pixels // self.t.m)
        return wanted if self.tiles % wanted == 0 else 1

    @property
    def gathered(self) -> int:
        """Groups of tiles whose bytes are gathered until they make whole lines; 0: none are."""
        if self.e.out.kind != "uint8":
            return 0
        pixels = self.t.m * self.tiles
        count = lcm(self.e.line, pixels) // pixels
        apart = count == 1 or self.width % (count * pixels) == 0  # no group overlaps another
        small = prod(self._gathered_shape(count)) <= GATHERED_BYTES
        return count if apart and small and self._streams(count * pixels) else 0

    @property
    def groups(self) -> list[range]:
        """The vectors whose epilogue is emitted together: at most `WIDEST` where possible.

        No segment may straddle two groups, unless vectors are stored in the order of the lanes, or
        gathered first.
        """
        e, result, first = self.e, [], 0
        edges = range(e.vectors + 1) if e.in_order or self.gathered else e.edges
        while first < e.vectors:
            fitting = [v for v in edges if first < v <= first + WIDEST]
            last = max(fitting) if fitting else min(v for v in edges if v > first)
            result.append(range(first, last))
            first = last
        return result

    def _gathered_shape(self, count: int) -> tuple[int, int, int, int]:
        """[i, tiles of one epilogue, vector, element] of so many groups of tiles."""
        turns = count * self.tiles // self.together
        return self.t.m, turns, self.e.vectors, self.e.whole

    @property
    def streams(self) -> bool:
        """The output is written past the caches."""
        return self._streams(self.t.m * (self.gathered * self.tiles or self.together))

    def _streams(self, together: int) -> bool:
        """The same, where segments are stored over so many pixels together."""
        step = max(together, self.t.m * self.tiles)
        return epilogue.streams(self.e, (self.height, self.width), together, step)

    def allocate(self, vectors: int) -> dict[str, Expr]:
        """half [tile and vector, i, j, lane] of so many vectors; bytes, see `_gathered_shape`."""
        shape = (self.tiles * vectors, self.t.m, self.t.n, self.e.isa.lanes)
        scratch = {"half": local(shape, "int32")}
        if self.gathered:
            scratch["bytes"] = local(self._gathered_shape(self.gathered), "uint8")
        return scratch

    def column(
        self, half: Expr, group: range, j: Expr, tile: Expr, vector: Expr, sums: list[Vector]
    ) -> None:
        """A^T times column j of M, of one of a group of vectors."""
        isa, index = self.e.isa, tile * len(group) + vector - group.start
        for i, z in enumerate(linear.by_columns(self.t.AT, sums, linear.modular(isa))):
            store(half, z, [index, i, j, lanes(i32(0), isa.lanes)])

    def emit(self, context: Context, group: range, y: Expr, x: Expr, index: Expr) -> None:
        """(A^T M) A and the epilogue of a group of vectors, row by row of a few tiles.

        Args:
            y, x: where the group of tiles begins; index: its number.
        """
        m, turns = self.t.m, self.tiles // self.together
        with serial(turns) as turn:
            tile = let(turn * self.together)
            with serial(m) as i, when(inside(y + i, self.height)):
                values = self._values(context, group, tile, i, let(y + i), let(x + tile * m))
                if self.gathered:
                    place = let(index % self.gathered * turns + turn)
                    self._gather(values, context.scratch["bytes"], i, place, group)
                else:
                    finish.emit(values, m * self.together, self._target(context), group)

    def _target(self, context: Context) -> Output:
        return replace(context.output, streaming=self.streams)

    def _values(
        self, context: Context, group: range, first: Expr, i: Expr, y: Expr, x: Expr
    ) -> finish.Values:
        """The values of row i of some tiles from tile `first` on, from (y, x)."""
        t, e = self.t, self.e
        half, whole = context.scratch["half"], lanes(i32(0), e.isa.lanes)

        @cache
        def row(v: int, tile: int) -> list[Vector]:
            index = (first + tile) * len(group) + (v - group.start)
            z = [let(half[index, i, j, whole]) for j in range(t.n)]
            return linear.by_columns(t.AT, z, linear.modular(e.isa))

        def accumulator(v: int, p: int) -> Vector:
            z = row(v, p // t.m)[p % t.m]
            if self.paired:
                here = lanes(i32(v * e.isa.lanes), e.isa.lanes)
                z = e.isa.add(z, context.constants["rest"][i, p % t.m, here])
            return e.isa.mul(z, t.inverse) if t.inverse != 1 else z

        residuals = {r: context.rows[r] for r in e.residuals}
        return finish.Values(e, accumulator, y, x, context.constants, residuals)

    def _gather(
        self, values: finish.Values, into: Expr, i: Expr, place: Expr, group: range
    ) -> None:
        """Puts the bytes of row i of the tiles of one epilogue where `segments` reads them."""
        pixels = self.t.m * self.together
        source = values.source([range(pixels)])
        for v in group:
            store(into, source(v, 0), [i, place, v, lanes(i32(0), pixels * self.e.isa.lanes)])

    def segments(self, context: Context, y: Expr, x: Expr) -> None:
        """Stores the segments of the gathered groups of tiles, from (y, x), by whole lines."""
        e, pixels, gathered = self.e, self.t.m * self.together, context.scratch["bytes"]
        count = lcm(e.line, pixels) // pixels
        runs = [range(k * pixels, (k + 1) * pixels) for k in range(count)]
        steps, used = int(gathered.shape[1]) // count, lanes(i32(0), pixels * e.isa.lanes)
        with serial(self.t.m) as i, when(inside(y + i, self.height)), serial(steps) as step:
            stores.segments(
                e,
                lambda v, s: gathered[i, step * count + s, v, used],
                runs,
                let(y + i),
                let(x + step * (count * pixels)),
                self._target(context),
                range(e.vectors),
            )
