"""Direct integer convolution: any kernel, stride, padding, dilation, groups and channel count.

acc[y, x, o] = b'[o] + sum over (i, j, c) of q[y sh - pt + i dh, x sw - pl + j dw, c] w[o, c, i, j]
modulo 2^32, on the stored activations q + offset; the zero point and the offset are folded into
the bias, b' = b - (z + offset) sum w, and the border holds the padding. acc itself fits int32
(`accumulators.prove_int32`), so the modulus loses nothing.

Where the pixels of a row of taps touch (dilation 1, all channels), the taps of a kernel row are one
contiguous run of kw C elements in the pixel-major layout; it is read word by word (2 int16 or 4
bytes), each word broadcast against a vector of output channels. A block of pixels times vectors of
output channels stays in registers over the whole sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from calib.qparams import I8
from compiler.kernels import epilogue
from compiler.kernels.blocks import BlockKernel, word_elements, word_name
from compiler.kernels.builder import (
    cast,
    i32,
    inside,
    lanes,
    let,
    local,
    register,
    reinterpret,
    serial,
    store,
    when,
)
from compiler.kernels.conv import folded_bias
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Context
from compiler.kernels.rows import Layout, Rows
from compiler.kernels.schedule import Stage
from compiler.network import Conv

PIXELS = 48  # pixels whose accumulators lie in the first-level cache at a time


@dataclass(frozen=True)
class Run:
    """Contiguous elements of one row of taps: `count` from channel `channel` of tap `tap`."""

    tap: int
    channel: int
    count: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """Vectors of output channels computed together, the runs they read, and their weights."""

    first: int  # vector
    runs: tuple[Run, ...]
    words: int  # of all runs of one row of taps
    weights: NDArray[np.generic]  # [kh, words, lanes, elements of a word]


def register_block(conv: Conv, order: list[int], isa: Isa) -> tuple[int, int]:
    """(vectors, pixels) of a register block: the fewest products, then the most vectors.

    Vectors computed together read the channels of every group that they touch, with zeros for
    weights that do not exist; a grouped conv takes blocks that end where its groups do.
    """
    accumulators = isa.registers * 3 // 4
    widest = 3 if isa.registers == 16 else 7
    vectors = -(-len(order) // isa.lanes)

    def products(v: int) -> int:
        parts = [order[i : i + v * isa.lanes] for i in range(0, len(order), v * isa.lanes)]
        return sum(v * len(channels_read(conv, part)) for part in parts)

    best = min(range(1, min(widest, vectors) + 1), key=lambda v: (products(v), -v))
    return best, accumulators // best


def channels_read(conv: Conv, outputs: list[int]) -> range:
    """The input channels of the groups that some output channels belong to."""
    group_out, group_in = len(conv.weight) // conv.groups, int(conv.weight.shape[1])
    groups = [o // group_out for o in outputs]
    return range(min(groups) * group_in, (max(groups) + 1) * group_in)


def chunks(conv: Conv, order: list[int], isa: Isa, vectors: int) -> list[Chunk]:
    """Splits the lanes into chunks of `vectors` vectors and packs their weights."""
    count = vectors * isa.lanes
    return [
        _chunk(conv, order[i : i + count], i // isa.lanes, count, isa)
        for i in range(0, len(order), count)
    ]


def _chunk(conv: Conv, order: list[int], first: int, count: int, isa: Isa) -> Chunk:
    group_out, group_in = len(conv.weight) // conv.groups, conv.weight.shape[1]
    read = channels_read(conv, order)
    kh, kw = conv.weight.shape[2:]
    dense = np.zeros((kh, count, kw, len(read)), np.int8)  # zero beyond an output's own group
    for lane, o in enumerate(order):
        start = o // group_out * group_in - read.start
        dense[:, lane, :, start : start + group_in] = conv.weight[o].transpose(1, 2, 0)
    if conv.dilations[1] == 1 and len(read) == group_in * conv.groups:
        runs: tuple[Run, ...] = (Run(0, 0, kw * len(read)),)
        pieces = [dense.reshape(kh, count, -1)]
    else:
        runs = tuple(Run(j * conv.dilations[1], read.start, len(read)) for j in range(kw))
        pieces = [dense[:, :, j] for j in range(kw)]
    packed = np.concatenate([_words(p, word_elements(isa)) for p in pieces], axis=1)
    dtype = np.int8 if isa.bytes_dot else np.int16
    return Chunk(first, runs, packed.shape[1], np.ascontiguousarray(packed.astype(dtype)))


def _words(taps: I8, elements: int) -> I8:
    """[kh, lanes, k] to [kh, words, lanes, elements], zero past the end."""
    kh, count, k = taps.shape
    padded = np.zeros((kh, count, -(-k // elements) * elements), np.int8)
    padded[:, :, :k] = taps
    return padded.reshape(kh, count, -1, elements).transpose(0, 2, 1, 3)


@dataclass(frozen=True, eq=False)
class Direct(BlockKernel):
    """The direct kernel of one conv (with its epilogue) for one image size."""

    parts: list[Chunk]
    block: tuple[int, int]

    @property
    def row_elements(self) -> int:
        """See `BlockKernel`."""
        vectors, _ = self.block
        return len(self.parts) * vectors * self.isa.lanes

    @property
    def pixels(self) -> int:
        """See `BlockKernel`."""
        _, pixels = self.block
        return min(self.width, max(1, PIXELS // pixels) * pixels)

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """Accumulators, and the input rows as int16 where the dot product needs them so."""
        scratch = {"acc": local((self.pixels * self.row_elements,), "int32")}
        if not self.isa.bytes_dot:
            scratch["wide"] = local((self._reach(rows), self.source.stride), "int16")
        return scratch

    def _reach(self, rows: int) -> int:
        return (rows - 1) * self.conv.strides[0] + self.stage.reads[0].span

    def emit(self, context: Context, first: Expr, rows: int) -> None:
        """See `Kernel.emit`."""
        source = context.rows[self.conv.input]
        top = let(first * self.conv.strides[0] - self.conv.pads[0])
        with when(tir.all(first + rows > 0, first < self.height)):
            if not self.isa.bytes_dot:
                self._widen(source, context.scratch["wide"], top, self._reach(rows))
            with serial(rows) as i:
                y = let(first + i)
                with when(inside(y, self.height)):
                    self._row(context, source, top, i, y)

    def _widen(self, source: Rows, wide: Expr, top: Expr, count: int) -> None:
        with serial(count) as r:
            slot = source.slot(top + r)
            with serial(self.source.stride // 32) as k:
                at = lanes(k * 32, 32)
                store(wide, cast("int16", 32, source.buffer[slot, at]), [r, at])

    def _row(self, context: Context, source: Rows, top: Expr, i: Expr, y: Expr) -> None:
        def accumulate(x: Expr) -> None:
            for index, chunk in enumerate(self.parts):
                self._accumulate(context, source, chunk, index, top, i, x)

        self.blocks(context, y, accumulate)

    def _accumulate(
        self, context: Context, source: Rows, chunk: Chunk, index: int, top: Expr, i: Expr, x: Expr
    ) -> None:
        """Stores the accumulators of one chunk for `pixels` pixels from x."""
        n, (vectors, width) = self.isa.lanes, self.block
        width = min(width, self.pixels)
        bias, acc = context.constants["bias"], context.scratch["acc"]
        (_, left, _, _), (sh, sw) = self.conv.pads, self.conv.strides
        with serial(-(-self.pixels // width)) as tile:
            p0 = let(T.min(tile * width, i32(self.pixels - width)))
            sums = [[register(n) for _ in range(vectors)] for _ in range(width)]
            for pixel in sums:
                for v, total in enumerate(pixel):
                    first = i32((chunk.first + v) * n)
                    store(total, bias[lanes(first, n)], [lanes(i32(0), n)])
            with serial(self.conv.weight.shape[2]) as ky:
                row = self._source_row(context, source, top, i * sh + ky * self.conv.dilations[0])
                word = 0
                for run in chunk.runs:
                    base = let(self.source.at((x + p0) * sw - left + run.tap, run.channel))
                    self._run(context, chunk, index, sums, row, base, ky, word, run)
                    word += -(-run.count // word_elements(self.isa))
            for p, pixel in enumerate(sums):
                for v, total in enumerate(pixel):
                    at = (p0 + p) * self.row_elements + (index * vectors + v) * n
                    store(acc, total[lanes(i32(0), n)], [lanes(at, n)])

    def _source_row(self, context: Context, source: Rows, top: Expr, r: Expr) -> tuple[Expr, Expr]:
        if self.isa.bytes_dot:
            return source.buffer, source.slot(top + r)
        return context.scratch["wide"], let(r)

    def _run(
        self,
        context: Context,
        chunk: Chunk,
        index: int,
        sums: list[list[Expr]],
        row: tuple[Expr, Expr],
        base: Expr,
        ky: Expr,
        word: int,
        run: Run,
    ) -> None:
        """sums += the dot products of one run of taps."""
        isa, n, (vectors, _) = self.isa, self.isa.lanes, self.block
        elements, (buffer, slot) = word_elements(isa), row
        pixel = self.conv.strides[1] * self.source.channels
        weights = context.constants[f"weights{index}"]
        dot, whole = isa.dot8_ if isa.bytes_dot else isa.dot16_, lanes(i32(0), n)
        with serial(-(-run.count // elements)) as k:
            w = []
            for v in range(vectors):
                at = (((ky * chunk.words + word + k) * vectors + v) * n) * elements
                w.append(let(reinterpret(isa.vector, weights[lanes(at, n * elements)])))
            for p, totals in enumerate(sums):
                at = lanes(base + p * pixel + k * elements, elements)
                a = let(T.broadcast(reinterpret("int32", buffer[slot, at]), n))
                for v, total in enumerate(totals):
                    store(total, dot(total[whole], a, w[v]), [whole])


def direct(stage: Stage, size: tuple[int, int], e: Epilogue, source: Layout, zero: int) -> Direct:
    """The direct kernel of `e.conv`.

    Args:
        size: height and width of the conv's own output (before a fused pixel shuffle).
        zero: the stored form of a real zero of the input.
    """
    vectors, pixels = register_block(e.conv, e.order, e.isa)
    parts = chunks(e.conv, e.order, e.isa, vectors)
    count = len(parts) * vectors * e.isa.lanes
    constants: dict[str, NDArray[np.generic]] = dict(epilogue.prepare(e))
    constants["bias"] = epilogue.by_lane(folded_bias(e.conv, zero), e.order, count)
    constants |= {f"weights{i}": c.weights.reshape(-1) for i, c in enumerate(parts)}
    choice = f"direct, {word_name(e.isa)}, {pixels} pixels x {vectors} vectors"
    return Direct(stage, size[0], size[1], constants, choice, e, source, parts, (vectors, pixels))
