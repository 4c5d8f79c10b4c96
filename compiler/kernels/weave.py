"""Other work between dot products, beside which it costs little.

Dot products fill two of the processor's four vector pipes; additions, shifts and conversions can
use the others, if they stand close enough to dot products. So such work is cut into pieces and
dealt out between short runs of dot products; how far a processor looks ahead, some 64 vector
operations, bounds both. Measured on Zen 4: a piece of 27 operations costs 4 cycles there, 20 alone,
and with two pieces in a place, or runs of four words, nothing is gained. A piece stores what it has
just computed: a store whose data is no longer on the fly takes a dot product's turn at the register
file (1.5 cycles). So do operations on three registers (permutations of two vectors, merging masks,
fused multiply-adds), while rotations and blends, of two, are free up to one for two dot products.

Only the input transform is woven, and only between plain products: inner ones fill every pipe. The
epilogues, held back by a group and woven too, made each layer alone 2 to 5 % faster where bytes are
stored in order, but whole networks 2 % slower, and pixel shuffles 7 %: what is held back is stored
and loaded once more. Emitted a row at a time after the blocks of the next group, whole rather than
in pieces, they cost what they cost now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx as tir

from compiler.kernels.builder import let, serial, when
from compiler.kernels.isa import Expr


@dataclass(frozen=True)
class Task:
    """`count` independent pieces of work; `emit` emits the one with a number below `count`."""

    count: int
    emit: Callable[[Expr], None]

    def alone(self) -> None:
        """Emits all pieces, one after the other."""
        with serial(self.count) as piece:
            self.emit(piece)


@dataclass(frozen=True)
class Woven:
    """A task dealt out evenly over the blocks of some vectors, in rounds (vector, j).

    Attributes:
        vectors: whose blocks take part.
        columns: values of j.
        wanted: whether there is anything to do.
    """

    task: Task
    vectors: range
    columns: int
    wanted: Expr

    def emit(self, vector: Expr, j: Expr, slot: int, slots: int) -> None:
        """Emits what belongs after run `slot` of the `slots` of a block."""
        rounds = len(self.vectors) * self.columns
        share = -(-self.task.count // rounds)
        turn = (vector - self.vectors.start) * self.columns + j
        for number in range(slot * share // slots, (slot + 1) * share // slots):
            piece = let(turn * share + number)
            with when(tir.all(self.wanted, piece < self.task.count)):
                self.task.emit(piece)
