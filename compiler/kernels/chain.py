"""One chain of operators as one function: bands of rows in parallel, depth-first inside a band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx as tir
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.builder import i32, inside, let, local, serial, when
from compiler.kernels.isa import Expr, Isa
from compiler.kernels.kernel import Context, Kernel
from compiler.kernels.rows import Layout, Rows
from compiler.kernels.schedule import Schedule, Slot
from compiler.kernels.stores import Output


@dataclass(frozen=True, eq=False)
class Chain:
    """Operators computed together.

    Attributes:
        inputs: tensors read from outside, in order; the graph input or stored tensors.
        output: the tensor that the last kernel writes.
        layouts: of every stored tensor.
        shapes: shape and element type of every tensor outside the chain.
    """

    name: str
    kernels: tuple[Kernel, ...]
    schedule: Schedule
    inputs: tuple[str, ...]
    output: str
    layouts: Mapping[str, Layout]
    shapes: Mapping[str, tuple[tuple[int, ...], str]]
    isa: Isa
    threads: int

    @property
    def blocks(self) -> int:
        """Steps that cover the last stage."""
        return -(-self.kernels[-1].height // self.schedule.slots[-1].rows)

    @property
    def constants(self) -> list[NDArray[np.generic]]:
        """Constants of all kernels, in the order of the function's parameters."""
        return [value for k in self.kernels for value in k.constants.values()]

    @property
    def workspace_bytes(self) -> int:
        """Rings and scratch of all bands."""
        slots = self.schedule.slots
        with IRBuilder(), T.prim_func():
            buffers = [self._ring(*ring) for ring in self.schedule.rings.items()]
            for kernel, slot in zip(self.kernels, slots, strict=True):
                buffers += kernel.allocate(slot.rows).values()
        band = sum(math.prod(map(int, b.shape)) * np.dtype(str(b.dtype)).itemsize for b in buffers)
        return band * min(self.threads, self.blocks)

    def _ring(self, tensor: str, rows: int) -> Expr:
        return local((rows, self.layouts[tensor].stride), self.isa.stored)

    def function(self) -> tir.PrimFunc:
        """The function: inputs, constants, output."""
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"global_symbol": self.name, "tirx.noalias": True})
            outside = {t: self._parameter(t, t, t not in self.layouts) for t in self.inputs}
            constants = self._constant_parameters()
            outside[self.output] = self._parameter("output", self.output)
            helpers = tvm.ir.StringImm(self.isa.llvm)
            bands = min(self.threads, self.blocks)
            with T.attr(i32(0), "pragma_import_llvm", helpers), T.parallel(bands) as band:
                self._band(band, bands, outside, constants)
        return builder.get()

    def _parameter(self, name: str, tensor: str, anywhere: bool = False) -> Expr:
        """A buffer; `anywhere`: the caller's memory, which begins wherever an element may."""
        shape, dtype = self.shapes[tensor]
        align = np.dtype(dtype).itemsize if anywhere else 0
        return T.arg(_identifier(name), T.buffer(shape, dtype, align=align))

    def _constant_parameters(self) -> list[dict[str, Expr]]:
        return [
            {
                name: T.arg(_identifier(f"{name}_{i}"), T.buffer(value.shape, str(value.dtype)))
                for name, value in kernel.constants.items()
            }
            for i, kernel in enumerate(self.kernels)
        ]

    def _band(
        self, band: Expr, bands: int, outside: dict[str, Expr], constants: list[dict[str, Expr]]
    ) -> None:
        slots = self.schedule.slots
        rows = {t: Rows(b, self.layouts[t], 0) for t, b in outside.items() if t in self.layouts}
        for tensor, ring in self.schedule.rings.items():
            rows[tensor] = Rows(self._ring(tensor, ring), self.layouts[tensor], ring)
        contexts = [
            self._context(k, c, rows, outside, k.allocate(s.rows))
            for k, c, s in zip(self.kernels, constants, slots, strict=True)
        ]
        first = let(T.floordiv(band * self.blocks, i32(bands)))
        last = let(T.floordiv((band + 1) * self.blocks, i32(bands)))
        self._border_rows(rows.get(self.output), band)
        begin, end = min(s.begin for s in slots), max(s.end for s in slots)
        with serial(last - first + (end - begin)) as step:
            k = let(first + begin + step)
            for kernel, slot, context in zip(self.kernels, slots, contexts, strict=True):
                with when(tir.all(k >= first + slot.begin, k < last + slot.end)):
                    self._step(kernel, slot, context, k)

    def _context(
        self,
        kernel: Kernel,
        constants: dict[str, Expr],
        rows: dict[str, Rows],
        outside: dict[str, Expr],
        scratch: Mapping[str, Expr],
    ) -> Context:
        target = rows.get(kernel.stage.output)
        output = Output(target, None if target else outside[self.output])
        return Context(rows, outside, output, constants, scratch)

    def _step(self, kernel: Kernel, slot: Slot, context: Context, k: Expr) -> None:
        """One block of one kernel, then the border around the rows that it made."""
        first = let(k * slot.rows - slot.lag)
        kernel.emit(context, first, slot.rows)
        up = kernel.stage.up
        for name in kernel.stage.outputs:
            if name in context.rows:
                self._border(context.rows[name], let(first * up), slot.rows * up)

    def _border(self, rows: Rows, first: Expr, count: int) -> None:
        """What stands outside the image, beside and instead of `count` rows from `first`."""
        if rows.layout.left or rows.layout.right:
            with serial(count) as i:
                y = let(first + i)
                with when(inside(y, rows.layout.height)):
                    rows.fill_sides(rows.slot(y))
        if rows.ring and (rows.layout.top or rows.layout.bottom):
            rows.pad_outside(first, count)

    def _border_rows(self, rows: Rows | None, band: Expr) -> None:
        """The border rows of a whole image, by the first band."""
        if rows is None or not (rows.layout.top or rows.layout.bottom):
            return
        with when(band == 0):
            for count, start in (
                (rows.layout.top, -rows.layout.top),
                (rows.layout.bottom, rows.layout.height),
            ):
                if count:
                    with serial(count) as i:
                        rows.fill_row(let(i + start))


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def parameter_names(names: Sequence[str]) -> list[str]:
    """The names as identifiers of the generated code."""
    return [_identifier(name) for name in names]
