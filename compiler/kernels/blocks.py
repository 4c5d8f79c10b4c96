"""Kernels that sum a block of neighbouring pixels in scratch, then run the epilogue over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels import epilogue, finish
from compiler.kernels.builder import i32, lanes, let, serial
from compiler.kernels.conv import ConvKernel
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Context
from compiler.kernels.stores import Output

_LOW = "low_"  # before the names of the low part's constants


def word_elements(isa: Isa) -> int:
    """Activations in a word."""
    return 4 if isa.bytes_dot else 2


def word_name(isa: Isa) -> str:
    """What multiplies the words, for the build's summary."""
    return "vpdpbusd" if isa.bytes_dot else "int16 pairs"


@dataclass(frozen=True, eq=False)
class BlockKernel(ConvKernel):
    """One conv whose accumulators are int32 [pixel, element], in the scratch buffer `acc`.

    Attributes:
        low: epilogue of the low part (`lowparts`) of the output, made of the same accumulators.
    """

    low: Epilogue | None = field(default=None, kw_only=True)

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """See `Kernel.allocate`."""
        raise NotImplementedError

    def emit(self, context: Context, first: Expr, rows: int) -> None:
        """See `Kernel.emit`."""
        raise NotImplementedError

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
        with serial(-(-self.width // self.pixels)) as block:
            x = let(T.min(block * self.pixels, i32(self.width - self.pixels)))
            accumulate(x)
            self._finish(context, self.epilogue, context.output, context.constants, y, x)
            if self.low:
                prefixed = context.constants.items()
                constants = {k.removeprefix(_LOW): c for k, c in prefixed if k.startswith(_LOW)}
                output = Output(context.rows[self.low.conv.output])
                self._finish(context, self.low, output, constants, y, x)

    def _finish(
        self,
        context: Context,
        e: Epilogue,
        output: Output,
        constants: Mapping[str, Expr],
        y: Expr,
        x: Expr,
    ) -> None:
        """An epilogue over the block from (y, x)."""
        n, acc, together = self.isa.lanes, context.scratch["acc"], min(e.pixels, self.pixels)
        streaming = epilogue.streams(e, (self.height, self.width), together, self.pixels)
        with serial(-(-self.pixels // together)) as group:
            p0 = let(T.min(group * together, i32(self.pixels - together)))
            values = finish.Values(
                e,
                lambda v, p: acc[lanes((p0 + p) * self.row_elements + v * n, n)],
                y,
                x + p0,
                constants,
                {r: context.rows[r] for r in e.residuals},
            )
            output = replace(output, streaming=streaming)
            finish.emit(values, together, output, range(e.vectors))


def with_low(kernel: BlockKernel, low: BlockKernel) -> BlockKernel:
    """One kernel for a conv and its low part: the products are computed once.

    Args:
        low: the kernel of the low part alone.
    """
    constants = epilogue.prepare(low.epilogue)
    return replace(
        kernel,
        stage=replace(kernel.stage, also=low.stage.output),
        constants=dict(kernel.constants) | {_LOW + name: c for name, c in constants.items()},
        choice=f"{kernel.choice}, also its low part",
        low=low.epilogue,
    )
