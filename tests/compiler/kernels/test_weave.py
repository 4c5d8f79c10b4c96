"""Woven tasks: every piece is emitted once, whatever the blocks between which it is dealt out."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.builder import i32, serial, store
from compiler.kernels.isa import Expr
from compiler.kernels.weave import Task, Woven


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    ("count", "first", "vectors", "columns", "slots"),
    [
        (18, 0, 1, 6, 7),  # as many rounds as pieces fit, several pieces a round
        (18, 0, 3, 6, 7),  # one piece a round
        (5, 2, 4, 6, 1),  # fewer pieces than rounds
        (25, 1, 2, 6, 3),  # the last rounds have nothing to do
        (40, 0, 1, 4, 2),  # several pieces a slot
    ],
)
def test_each_piece_is_emitted_once(
    count: int, first: int, vectors: int, columns: int, slots: int, wanted: bool
) -> None:
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"global_symbol": "deal", "tirx.noalias": True})
        more = T.arg("more", T.buffer((1,), "int32"))
        done = T.arg("done", T.buffer((count,), "int32"))

        def emit(piece: Expr) -> None:
            store(done, done[piece] + 1, [piece])

        part = range(first, first + vectors)
        woven = Woven(Task(count, emit), part, columns, more[0] > 0)
        with serial(vectors) as v, serial(columns) as j:
            for slot in range(slots):
                woven.emit(i32(first) + v, j, slot, slots)
    compiled = tvm.compile(tvm.IRModule({"deal": builder.get()}), target="llvm")
    times = tvm.runtime.tensor(np.zeros(count, np.int32))
    compiled["deal"](tvm.runtime.tensor(np.full(1, int(wanted), np.int32)), times)
    np.testing.assert_array_equal(times.numpy(), int(wanted))
