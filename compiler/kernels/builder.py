"""A few words over TVM's IRBuilder, so that a kernel reads like the loop nest that it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.isa import Expr

let = T.bind
store = T.buffer_store
serial = T.serial
reinterpret = T.reinterpret


def lanes(base: Expr, n: int) -> Expr:
    """The indices base, base + 1, ..., base + n - 1."""
    return T.ramp(base, 1, n) if n > 1 else base


def splat(value: float, dtype: str, n: int) -> Expr:
    """A constant in each of n lanes."""
    number = float(np.float32(value)) if dtype == "float32" else int(value)
    constant = tir.const(number, dtype)
    return T.broadcast(constant, n) if n > 1 else constant


def i32(value: int) -> Expr:
    """An int32 constant."""
    return tir.const(value, "int32")


def local(shape: Sequence[int], dtype: str) -> Expr:
    """A scratch buffer of the running thread."""
    return T.alloc_buffer(tuple(shape), dtype, scope="local")


def register(n: int) -> Expr:
    """A vector of n int32 that LLVM keeps in a register.

    TVM puts small "global" buffers on the stack, and any "local" one into a workspace, whose
    stores LLVM must keep.
    """
    return T.alloc_buffer((n,), "int32", scope="global")


def cast(dtype: str, n: int, value: Expr) -> Expr:
    """Converts each of n lanes."""
    return T.cast(value, f"{dtype}x{n}" if n > 1 else dtype)


def clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    """min(max(value, lo), hi)."""
    return T.min(T.max(value, lo), hi)


@contextlib.contextmanager
def when(condition: Expr | None) -> Iterator[None]:
    """The body runs where the condition holds; None stands for always."""
    if condition is None:
        yield
    else:
        with T.If(condition), T.Then():
            yield


def inside(y: Expr, height: int) -> Expr:
    """Whether y is a row of an image of this height."""
    return tir.all(y >= 0, y < height)


def pick(sources: Sequence[Expr], width: int, picks: Sequence[tuple[int, int]]) -> Expr:
    """A vector whose element i is lane picks[i][1] of sources[picks[i][0]] (`width` lanes each).

    One two-operand shuffle for each further source.
    """
    used = sorted({s for s, _ in picks})
    result = None
    for s in used:
        wanted = [lane if source == s else 0 for source, lane in picks]
        part = shuffle([sources[s]], wanted) if width > 1 else sources[s]
        if result is None:
            result = part
        else:
            n = len(picks)
            result = shuffle(
                [result, part], [i + n * (source == s) for i, (source, _) in enumerate(picks)]
            )
    return result


def shuffle(vectors: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """Elements of the concatenated vectors, by index; more than there are where some repeat."""
    total = sum(lane_count(v) for v in vectors)
    enough = list(vectors) * -(-len(indices) // total)  # TVM wants no more indices than elements
    return tir.Shuffle(enough, [i32(i) for i in indices])


def lane_count(value: Expr) -> int:
    """Lanes of a vector, 1 for a scalar."""
    return int(str(value.ty).partition("x")[2] or 1)


def power_of_two_runs(count: int, longest: int) -> Iterator[tuple[int, int]]:
    """(start, length) of runs that cover `count`, each a power of two, the longest first."""
    start = 0
    while start < count:
        length = min(longest, 1 << ((count - start).bit_length() - 1))
        yield start, length
        start += length
