"""Operators that move the network's answer: float32 [1, C, H, W] or uint8 [1, H, W, C], in memory.

They stand behind the last convolutions. A pixel shuffle right behind one is fused into its epilogue
instead; `move` has the same operators for the integers inside the network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.builder import i32, let, serial, store
from compiler.kernels.isa import Expr
from compiler.kernels.kernel import Context
from compiler.kernels.move import RowKernel
from compiler.network import Concat, DepthToSpace, Kind, MaxPool, ResizeNearest


@dataclass(frozen=True, eq=False)
class PlainKernel(RowKernel):
    """Base: element (c, y, x) of a tensor, and loops over a row in the order of the memory."""

    kind: Kind

    def at(self, c: Expr, y: Expr, x: Expr) -> list[Expr]:
        """Index of an element."""
        return [0, c, y, x] if self.kind == "float32" else [0, y, x, c]

    @contextlib.contextmanager
    def each(self, channels: int) -> Iterator[tuple[Expr, Expr]]:
        """The body runs for every (channel, pixel) of a row."""
        if self.kind == "float32":
            with serial(channels) as c, serial(self.width) as x:
                yield c, x
        else:
            with serial(self.width) as x, serial(channels) as c:
                yield c, x


@dataclass(frozen=True, eq=False)
class PlainShuffle(PlainKernel):
    """Pixel shuffle: input row y becomes output rows [y b, (y + 1) b)."""

    op: DepthToSpace
    depth: int  # channels of the output

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        source, out, b = context.outside[self.op.input], context.output.buffer, self.op.block
        crd = self.op.mode == "CRD"
        with serial(b) as i, self.each(self.depth) as (c, x):
            for j in range(b):
                channel = (c * b + i) * b + j if crd else (i * b + j) * self.depth + c
                store(out, source[tuple(self.at(channel, y, x))], self.at(c, y * b + i, x * b + j))


@dataclass(frozen=True, eq=False)
class PlainJoin(PlainKernel):
    """Channels of several tensors side by side."""

    op: Concat
    channels: tuple[int, ...]  # of the inputs

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        first = 0
        for name, channels in zip(self.op.inputs, self.channels, strict=True):
            with self.each(channels) as (c, x):
                value = context.outside[name][tuple(self.at(c, y, x))]
                store(context.output.buffer, value, self.at(c + first, y, x))
            first += channels


@dataclass(frozen=True, eq=False)
class PlainPool(PlainKernel):
    """Maximum over a window; columns and rows beyond the image repeat its edge, as in `move`."""

    op: MaxPool
    channels: int
    size: tuple[int, int]  # of the input

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        source, (kh, kw), (sh, sw) = context.outside[self.op.input], self.op.kernel, self.op.strides
        (top, left, _, _), (height, width) = self.op.pads, self.size
        with self.each(self.channels) as (c, x):
            best = None
            for i in range(kh):
                row = let(T.max(T.min(y * sh - top + i, i32(height - 1)), i32(0)))
                for j in range(kw):
                    column = T.max(T.min(x * sw - left + j, i32(width - 1)), i32(0))
                    value = source[tuple(self.at(c, row, column))]
                    best = value if best is None else let(T.max(best, value))
            store(context.output.buffer, best, self.at(c, y, x))


@dataclass(frozen=True, eq=False)
class PlainUpscale(PlainKernel):
    """Nearest upscale: input row y becomes output rows [y fy, (y + 1) fy)."""

    op: ResizeNearest
    channels: int

    def row(self, context: Context, y: Expr) -> None:
        """See `RowKernel.row`."""
        source, (fy, fx) = context.outside[self.op.input], self.op.factors
        with serial(fy) as i, self.each(self.channels) as (c, x):
            value = let(source[tuple(self.at(c, y, x))])
            for j in range(fx):
                store(context.output.buffer, value, self.at(c, y * fy + i, x * fx + j))
