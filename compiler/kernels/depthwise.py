"""Depthwise integer convolution: every channel has a window of its own; lanes are channels.

acc[y, x, c] = b'[c] + sum over (i, j) of q[y sh - pt + i dh, x sw - pl + j dw, c] w[c, i, j]
modulo 2^32, on the stored activations, with b' and the border as in `direct`; acc fits int32
(`accumulators.prove_int32`), so the modulus loses nothing.

A word of lane c holds the activations of one column of the window, 2 rows (int16) or 4 (bytes) of
channel c, interleaved from as many vectors of the source. It is made once and serves all the pixels
of a block whose window reaches that column: a stride-1 kernel of kh x kw taps makes ceil(kh / 2)
words a pixel and multiplies kw ceil(kh / 2) times, or with 4 rows half as often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T  # noqa: N812

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
    shuffle,
    store,
    when,
)
from compiler.kernels.conv import folded_bias
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Context
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Stage
from compiler.network import Conv

ACC_BYTES = 12 << 10  # accumulators of a block: they share the first-level cache with the source
MOST_DOTS = 64  # dot products written out in a row: bounds the code of wide windows


def fits(e: Epilogue) -> bool:
    """A conv of one window a channel, whose lanes are the channels in order."""
    count, fan = e.conv.weight.shape[:2]
    one_each = e.conv.groups == count and fan == 1
    return one_each and count > 1 and e.order == list(range(count))


@dataclass(frozen=True, eq=False)
class Depthwise(BlockKernel):
    """The depthwise kernel of one conv for one image size."""

    together: int  # pixels whose sums stay in registers

    @property
    def row_elements(self) -> int:
        """See `BlockKernel`."""
        return self.epilogue.vectors * self.isa.lanes

    @property
    def pixels(self) -> int:
        """See `BlockKernel`."""
        blocks = ACC_BYTES // (4 * self.row_elements * self.together)
        return min(self.width, max(1, blocks) * self.together)

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """The accumulators of a block, and where the rows of the window are."""
        return {
            "acc": local((self.pixels * self.row_elements,), "int32"),
            "slots": local((self.conv.kernel[0],), "int32"),
        }

    def emit(self, context: Context, first: Expr, rows: int) -> None:
        """See `Kernel.emit`."""
        source, kh = context.rows[self.conv.input], self.conv.kernel[0]
        (top, _, _, _), (sh, _), (dh, _) = self.conv.pads, self.conv.strides, self.conv.dilations
        with serial(rows) as i:
            y = let(first + i)
            with when(inside(y, self.height)):
                with serial(kh) as r:
                    store(context.scratch["slots"], source.slot(y * sh - top + r * dh), [r])
                self.blocks(context, y, lambda x: self._accumulate(context, x))

    def _accumulate(self, context: Context, x: Expr) -> None:
        """Stores the accumulators of the block from pixel x, vector by vector."""
        n, acc, whole = self.isa.lanes, context.scratch["acc"], lanes(i32(0), self.isa.lanes)
        together, left = min(self.together, self.pixels), self.conv.pads[1]
        full, rest = divmod(self.conv.kernel[0], word_elements(self.isa))
        with serial(self.epilogue.vectors) as v, serial(-(-self.pixels // together)) as tile:
            p0 = let(T.min(tile * together, i32(self.pixels - together)))
            base = let(self.source.at((x + p0) * self.conv.strides[1] - left, v * n))
            sums = [register(n) for _ in range(together)]
            for total in sums:
                store(total, context.constants["bias"][lanes(v * n, n)], [whole])
            if full:
                with serial(full) as g:
                    self._add(context, sums, v, base, g, word_elements(self.isa))
            if rest:
                self._add(context, sums, v, base, i32(full), rest)
            for p, total in enumerate(sums):
                store(acc, total[whole], [lanes((p0 + p) * self.row_elements + v * n, n)])

    def _add(
        self, context: Context, sums: list[Expr], v: Expr, base: Expr, g: Expr, rows: int
    ) -> None:
        """sums += the products with the g-th words of each column, of which `rows` rows exist."""
        isa, elements = self.isa, word_elements(self.isa)
        (kh, kw), (_, sw), (_, dw) = self.conv.kernel, self.conv.strides, self.conv.dilations
        source, whole = context.rows[self.conv.input].buffer, lanes(i32(0), isa.lanes)
        dot = isa.dot8_ if isa.bytes_dot else isa.dot16_
        slots = [let(context.scratch["slots"][g * elements + r]) for r in range(rows)]
        first, wide = (v * -(-kh // elements) + g) * kw, isa.lanes * elements
        packed = context.constants["weights"]
        weights = [
            let(reinterpret(isa.vector, packed[lanes((first + j) * wide, wide)])) for j in range(kw)
        ]
        reached: dict[int, list[tuple[int, int]]] = {}
        for p, j in product(range(len(sums)), range(kw)):
            reached.setdefault(p * sw + j * dw, []).append((p, j))
        for column, taps in sorted(reached.items()):
            at = lanes(base + column * self.source.channels, isa.lanes)
            word = self._word([let(source[slot, at]) for slot in slots])
            for p, j in taps:
                store(sums[p], dot(sums[p][whole], word, weights[j]), [whole])

    def _word(self, rows: list[Expr]) -> Expr:
        """Vectors of several rows, interleaved into words; rows left over have no weight."""
        n, elements = self.isa.lanes, word_elements(self.isa)
        if len(rows) == 1:
            return let(cast("int32", n, rows[0]))
        padded = [*rows, *[rows[-1]] * (elements - len(rows))]
        mixed = shuffle(padded, [r * n + lane for lane in range(n) for r in range(elements)])
        wide = mixed if self.isa.bytes_dot else cast("int16", 2 * n, mixed)
        return let(reinterpret(self.isa.vector, wide))


def pack(conv: Conv, vectors: int, isa: Isa) -> NDArray[np.generic]:
    """Weights [C, 1, kh, kw] to [vector][ceil(kh / e)][kw][lane][e] of words of e rows, flat."""
    e, (kh, kw), (count, lanes_) = word_elements(isa), conv.kernel, (vectors, isa.lanes)
    padded = np.zeros((count * lanes_, -(-kh // e) * e, kw), np.int8 if e == 4 else np.int16)
    padded[: len(conv.weight), :kh] = conv.weight[:, 0]
    split = padded.reshape(count, lanes_, -1, e, kw)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 1, 3)).reshape(-1)


def depthwise(
    stage: Stage, size: tuple[int, int], e: Epilogue, source: Layout, zero: int
) -> Depthwise:
    """The depthwise kernel of `e.conv`, which `fits`.

    Args:
        size: height and width of the output.
        zero: the stored form of a real zero of the input.
    """
    together = min(e.isa.registers // 2, max(1, MOST_DOTS // e.conv.kernel[1]))
    count = e.vectors * e.isa.lanes
    constants: dict[str, NDArray[np.generic]] = dict(epilogue.prepare(e))
    constants["bias"] = epilogue.by_lane(folded_bias(e.conv, zero), e.order, count)
    constants["weights"] = pack(e.conv, e.vectors, e.isa)
    choice = f"depthwise, {word_name(e.isa)}, {together} pixels"
    return Depthwise(stage, size[0], size[1], constants, choice, e, source, together)
