"""Kernels that sum a block of neighbouring pixels in scratch, then run the epilogue over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels import epilogue, finish
from compiler.kernels.builder import i32, lanes, let, serial
from compiler.kernels.conv import ConvKernel
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Context


def word_elements(isa: Isa) -> int:
    """Activations in a word."""
    return 4 if isa.bytes_dot else 2


def word_name(isa: Isa) -> str:
    """What multiplies the words, for the build's summary."""
    return "vpdpbusd" if isa.bytes_dot else "int16 pairs"


@dataclass(frozen=True, eq=False)
class BlockKernel(ConvKernel):
    """One conv whose accumulators are int32 [pixel, element], in the scratch buffer `acc`."""

    @property
    def row_elements(self) -> int:
        """Accumulators of one pixel, in whole vectors."""
        raise NotImplementedError

    @property
    def pixels(self) -> int:
        """Pixels of a block, at most the width."""
        raise NotImplementedError

    def blocks(self, context: Context, y: Expr, accumulate: Callable[[Expr], None]) -> None:
        """Emits row y: for every block, `accumulate(x)` of its first pixel x, and the epilogue.

        The last block overlaps its neighbour where the width is no multiple of its pixels.
        """
        e, n, acc = self.epilogue, self.isa.lanes, context.scratch["acc"]
        together = min(e.pixels, self.pixels)
        streaming = epilogue.streams(e, (self.height, self.width), together, self.pixels)
        with serial(-(-self.width // self.pixels)) as block:
            x = let(T.min(block * self.pixels, i32(self.width - self.pixels)))
            accumulate(x)
            with serial(-(-self.pixels // together)) as group:
                p0 = let(T.min(group * together, i32(self.pixels - together)))
                finish.emit(
                    e,
                    lambda v, p: acc[lanes((p0 + p) * self.row_elements + v * n, n)],
                    together,
                    y,
                    x + p0,
                    context.constants,
                    {r: context.rows[r] for r in e.residuals},
                    replace(context.output, streaming=streaming),
                    range(e.vectors),
                )
