"""Winograd convolution in exact integers, F(4x4, 3x3) and F(2x2, 3x3); the algebra is `algebra`.

For a row of `tiles` neighbouring m x m output tiles:
    V[j, i, t, c] = (B^T d B)[i, j] of the stored activations d of tile t, channel c   (int16)
    M[j, i, t, o] = start[i, j, o] + sum over c of V[j, i, t, c] U[i, j, o, c]         (mod 2^32)
    (A^T M A)[t, o] * inverse = 2^shift acc                                            (mod 2^32)
with n^2 frequencies (i, j), n = m + 2. start is factor * b' at the frequency of the points (1, 1),
which adds b' to every output; zero points and the stored offset are folded into b' as in `direct`.
With inner products M is more by a constant: A^T M A + rest takes it off, and adds factor * b'.
`algebra.prove` shows that V and U fit int16 and that 2^shift acc fits int32, so nothing is lost.

`inputs` makes V, `products` makes M, in register blocks, and `outputs` the rest. With 32 registers
plain products are made in whole columns, and V of the next tiles between them (`weave`); not
between inner products, which leave no vector pipe idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm import tirx as tir

from compiler.kernels import epilogue
from compiler.kernels.algebra import Proof, Transform, products_of_pairs
from compiler.kernels.builder import i32, let, serial, when
from compiler.kernels.conv import ConvKernel, folded_bias, wrapped
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.inputs import Inputs
from compiler.kernels.isa import Expr
from compiler.kernels.kernel import Context
from compiler.kernels.outputs import Outputs
from compiler.kernels.products import Products, split
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Stage
from compiler.kernels.weave import Task, Woven

FEWEST = 3  # vectors of output channels for which inner products pay (measured on Zen 4)


@dataclass(frozen=True, eq=False)
class Group:
    """The products of vectors of output channels whose epilogue is emitted together."""

    parts: list[Products]

    @property
    def vectors(self) -> range:
        """The vectors."""
        first = self.parts[0].first
        return range(first, first + sum(part.vectors for part in self.parts))


@dataclass(frozen=True, eq=False)
class Winograd(ConvKernel):
    """The Winograd kernel of one conv for one image size."""

    inputs: Inputs
    outputs: Outputs
    groups: list[Group]

    @property
    def t(self) -> Transform:
        """The transform."""
        return self.inputs.t

    @property
    def ahead(self) -> bool:
        """The input of the next tiles is transformed between the products of these."""
        return self.inputs.copies > 1

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """Buffers of the input transform, of a column of M, and of what follows it."""
        parts = [part for group in self.groups for part in group.parts]
        wide = max(parts, key=lambda part: part.block.vectors)
        outputs = self.outputs.allocate(max(len(group.vectors) for group in self.groups))
        return {**self.inputs.allocate(), **wide.allocate(), **outputs}

    def emit(self, context: Context, first: Expr, rows: int) -> None:
        """See `Kernel.emit`."""
        for tile_row in range(rows // self.t.m):
            y = let(first + tile_row * self.t.m) if tile_row else first
            with when(tir.all(y + self.t.m > 0, y < self.height)):
                self._tile_row(context, y)

    def _tile_row(self, context: Context, y: Expr) -> None:
        source, top = context.rows[self.conv.input], self.conv.pads[0]
        slots = [source.slot(y - top + i) for i in range(self.t.n)]
        inputs = partial(self.inputs.tasks, context.scratch, source, slots)
        count = -(-self.width // (self.t.m * self.inputs.tiles))
        if self.ahead:
            for task in inputs(i32(0)):
                task.alone()
        with serial(count) as index:
            if not self.ahead:
                for task in inputs(index):
                    task.alone()
            following = inputs(index + 1) if self.ahead else []
            for group in self.groups:
                column = partial(self.outputs.column, context.scratch["half"], group.vectors)
                for part in group.parts:
                    for vectors, between in self._beside(part, following, index + 1 < count):
                        part.emit(
                            context.scratch,
                            self.inputs.first_j(index),
                            vectors,
                            context.constants,
                            column,
                            between,
                        )
                self.outputs.emit(context, group.vectors, y, self.inputs.x(index), index)
            if gathered := self.outputs.gathered:
                with when(index % gathered == gathered - 1 if gathered > 1 else None):
                    self.outputs.segments(context, y, self.inputs.x(index - (gathered - 1)))

    def _beside(
        self, products: Products, following: list[Task], wanted: Expr
    ) -> list[tuple[range, Woven | None]]:
        """The vectors of some products, and what is computed beside them.

        The first half of all vectors goes with B^T d of the next tiles, the rest with (B^T d) B.
        """
        mine = range(products.first, products.first + products.vectors)
        if not following:
            return [(mine, None)]
        half, end = self.epilogue.vectors // 2, self.epilogue.vectors
        parts: list[tuple[range, Woven | None]] = []
        for task, part in zip(following, (range(half), range(half, end)), strict=True):
            both = range(max(part.start, mine.start), min(part.stop, mine.stop))
            if both:
                parts.append((both, Woven(task, part, self.t.n, wanted)))
        return parts


def winograd(
    stage: Stage,
    size: tuple[int, int],
    e: Epilogue,
    source: Layout,
    zero: int,
    t: Transform,
    proof: Proof,
    tiles: int,
) -> Winograd:
    """The Winograd kernel of `e.conv`, for which `proof` holds.

    Args:
        e: with shift = t.shift.
        zero: the stored form of a real zero of the input.
        tiles: neighbouring tiles computed together, at most width / m.
    """
    paired = pays(e, source) and proof.pairs
    outputs = Outputs(e, t, *size, tiles, paired)
    made = [
        Group(split(Products(e.isa, t, source.channels, tiles, v.start, len(v), paired)))
        for v in outputs.groups
    ]
    used = max(proof.weight, proof.input, proof.sum if paired else 0)
    choice = (
        f"F({t.m}x{t.m},3x3){' of inner products' if paired else ''}, {tiles} tiles; "
        f"uses {proof.output:.2f} of the int32 bound, {used:.2f} of int16"
    )
    ahead = made[0].parts[0].by_column and e.vectors > 1 and not paired
    copies = 2 if ahead else 1
    inputs = Inputs(e.isa, t, source, e.conv.pads[1], size[1], tiles, copies, paired)
    constants = _constants(e, t, [part for group in made for part in group.parts], zero)
    return Winograd(stage, *size, constants, choice, e, source, inputs, outputs, made)


def pays(e: Epilogue, source: Layout) -> bool:
    """Inner products cost less: what they add of V alone must serve several vectors."""
    whole = source.channels % (2 * e.isa.lanes) == 0
    return e.isa.adds_beside and whole and e.vectors >= FEWEST


def _constants(
    e: Epilogue, t: Transform, parts: list[Products], zero: int
) -> dict[str, NDArray[np.generic]]:
    """`U`, and factor * b': what sums `start` at, or what the epilogue adds as the `rest`."""
    U = t.weights(e.conv.weight)[:, e.order]
    count, channels = e.vectors * e.isa.lanes, len(e.order)
    bias = np.zeros(count, np.int64)
    bias[:channels] = folded_bias(e.conv, zero).astype(np.int64)[e.order] * t.factor
    constants: dict[str, NDArray[np.generic]] = dict(epilogue.prepare(e))
    constants["U"] = np.concatenate([part.pack(U) for part in parts])
    if parts[0].paired:
        mixed = np.zeros((t.n**2, count), np.int64)
        mixed[:, :channels] = products_of_pairs(U)
        constants["rest"] = wrapped(bias - t.outputs(mixed))
    else:
        constants["start"] = wrapped(np.stack([np.zeros_like(bias), bias]))
    return constants
