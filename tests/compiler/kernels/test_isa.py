"""The vector operations of each instruction set against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.host import FEATURES, Host, cpu_features
from compiler.kernels import linear
from compiler.kernels.builder import i32, lanes, let, store
from compiler.kernels.isa import ISAS, Expr, Isa
from compiler.library import compile_module

AVAILABLE = [ISAS[isa] for isa, features in FEATURES.items() if features <= cpu_features()]
COUNT = 5  # vectors of the input


def run(isa: Isa, dtype: str, elements: int, emit: Callable[[list[Expr], Expr], Expr]) -> tuple:
    """(vectors, emit(vectors)): random int32 vectors of full range, and what an operation gives."""
    n = isa.lanes
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"global_symbol": "run", "tirx.noalias": True})
        x = T.arg("x", T.buffer((COUNT, n), "int32"))
        y = T.arg("y", T.buffer((elements,), dtype))
        with T.attr(i32(0), "pragma_import_llvm", tvm.ir.StringImm(isa.llvm)):
            vectors = [let(x[i, lanes(i32(0), n)]) for i in range(COUNT)]
            store(y, emit(vectors, x), [lanes(i32(0), elements)])
    compiled = compile_module(tvm.IRModule({"run": builder.get()}), Host(isa.name, 1))
    values = np.random.default_rng(0).integers(-(2**31), 2**31, (COUNT, n)).astype(np.int32)
    values[0, :4] = -(2**31), 2**31 - 1, 0, -32769
    values[1] //= 2**16  # around the ends of int16
    values[2] //= 2**23  # around the ends of bytes
    out = tvm.runtime.tensor(np.zeros(elements, dtype))
    compiled["run"](tvm.runtime.tensor(values), out)
    return values, out.numpy()


def pairs(words: np.ndarray) -> np.ndarray:
    return words.view(np.int16).reshape(-1, 2).astype(np.int64)


@pytest.mark.parametrize("isa", AVAILABLE, ids=lambda isa: isa.name)
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "zero"), [("int8", -128), ("int8", 127), ("uint8", 255)])
def test_narrow_saturates(isa: Isa, count: int, dtype: str, zero: int) -> None:
    elements = count * isa.lanes
    x, y = run(isa, dtype, elements, lambda v, _: isa.narrow(v[:count], zero, dtype))
    info = np.iinfo(dtype)
    expected = np.clip(x[:count].astype(np.int64) + zero, info.min, info.max)
    np.testing.assert_array_equal(y, expected.reshape(-1))


@pytest.mark.parametrize("isa", AVAILABLE, ids=lambda isa: isa.name)
def test_sums_of_int16_wrap(isa: Isa) -> None:
    x, y = run(isa, "int32", isa.lanes, lambda v, _: isa.add16(v[0], v[1]))
    expected = (pairs(x[0]) + pairs(x[1])).astype(np.uint16).view(np.int16)
    np.testing.assert_array_equal(pairs(y), expected)


@pytest.mark.parametrize("isa", AVAILABLE, ids=lambda isa: isa.name)
def test_totals_of_parts_of_vectors(isa: Isa) -> None:
    for count, parts in ((1, 1), (3, 1), (1, 2), (2, 2), (3, 2), (2, 4)):
        if count * parts <= isa.lanes:
            check_totals(isa, count, parts)


def check_totals(isa: Isa, count: int, parts: int) -> None:
    x, y = run(isa, "int32", isa.lanes, lambda v, _: linear.totals(v[:count], parts, isa))
    expected = x[:count].reshape(count * parts, -1).sum(axis=1, dtype=np.int32)
    np.testing.assert_array_equal(y[: count * parts], expected)


@pytest.mark.parametrize("isa", AVAILABLE, ids=lambda isa: isa.name)
def test_dot_products_wrap(isa: Isa) -> None:
    n = isa.lanes
    x, y = run(isa, "int32", n, lambda v, _: isa.dot16_(v[2], v[0], v[1]))
    product = (pairs(x[0]) * pairs(x[1])).sum(axis=1)
    np.testing.assert_array_equal(y, (product + x[2]).astype(np.uint32).view(np.int32))

    def at(v: list[Expr], x: Expr) -> Expr:
        return isa.dot16_at(v[3], T.address_of(x[4, 2]), v[0])

    x, y = run(isa, "int32", n, at)
    product = (pairs(x[0]) * pairs(x[4])[2]).sum(axis=1)
    np.testing.assert_array_equal(y, (product + x[3]).astype(np.uint32).view(np.int32))
