"""Small integer matrices applied to vectors by additions, subtractions and multiples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.kernels.builder import let, shuffle, splat
from compiler.kernels.isa import Expr, Isa

Vector = Expr
Matrix = NDArray[np.int64]


@dataclass(frozen=True)
class Arithmetic:
    """Addition, subtraction and multiplication by an integer, of vectors of one type."""

    add: Callable[[Vector, Vector], Vector]
    sub: Callable[[Vector, Vector], Vector]
    scale: Callable[[Vector, int], Vector]


def int16(n: int) -> Arithmetic:
    """n int16 that provably do not overflow."""

    def scale(v: Vector, k: int) -> Vector:
        if k == 1:
            return v
        power = k.bit_length() - 1
        return v << splat(power, "int16", n) if k == 1 << power else v * splat(k, "int16", n)

    return Arithmetic(lambda a, b: a + b, lambda a, b: a - b, scale)


def modular(isa: Isa) -> Arithmetic:
    """int32 modulo 2^32."""

    def scale(v: Vector, k: int) -> Vector:
        if k > 0 and k & (k - 1) == 0:
            return v << splat(k.bit_length() - 1, "int32", isa.lanes) if k > 1 else v
        return isa.mul(v, k)

    return Arithmetic(isa.add, isa.sub, scale)


def by_rows(matrix: Matrix, x: Sequence[Vector], a: Arithmetic) -> list[Vector]:
    """matrix @ x.

    Neighbouring rows that differ in the sign of the odd columns (the points p and -p) share their
    even part e and odd part o, as e + o and e - o.
    """
    rows = [list(map(int, row)) for row in matrix]
    out: list[Vector] = []
    i = 0
    while i < len(rows):
        if i + 1 < len(rows) and mirrored(rows[i], rows[i + 1]):
            e = let(_sum([c * (j % 2 == 0) for j, c in enumerate(rows[i])], x, a))
            o = let(_sum([c * (j % 2 == 1) for j, c in enumerate(rows[i])], x, a))
            out += [let(a.add(e, o)), let(a.sub(e, o))]
            i += 2
        else:
            out.append(let(_sum(rows[i], x, a)))
            i += 1
    return out


def by_columns(matrix: Matrix, x: Sequence[Vector], a: Arithmetic) -> list[Vector]:
    """matrix @ x where columns, of the points p and -p, enter as sum and difference."""
    weights = [list(map(int, column)) for column in matrix.T]
    values = list(x)
    for j in range(len(weights) - 1):
        if mirrored(weights[j], weights[j + 1]):
            values[j], values[j + 1] = let(a.add(x[j], x[j + 1])), let(a.sub(x[j], x[j + 1]))
            column = weights[j]
            weights[j] = [u * (i % 2 == 0) for i, u in enumerate(column)]
            weights[j + 1] = [u * (i % 2 == 1) for i, u in enumerate(column)]
    rows = [[w[i] for w in weights] for i in range(len(matrix))]
    return [let(_sum(row, values, a)) for row in rows]


def mirrored(a: Sequence[int], b: Sequence[int]) -> bool:
    """b is a with the sign of its odd elements changed, and both kinds occur."""
    signs = all(v == u * (-1) ** j for j, (u, v) in enumerate(zip(a, b, strict=True)))
    return signs and any(a[0::2]) and any(a[1::2])


def _sum(row: Sequence[int], x: Sequence[Vector], a: Arithmetic) -> Vector:
    """sum of row[j] x[j]; terms of one magnitude are added before they are scaled."""
    total = None
    for magnitude in sorted({abs(c) for c in row if c}):
        terms = sorted(((c > 0, j) for j, c in enumerate(row) if abs(c) == magnitude), reverse=True)
        positive = terms[0][0]
        part = x[terms[0][1]]
        for sign, j in terms[1:]:
            part = (a.add if sign == positive else a.sub)(part, x[j])
        part = a.scale(part, magnitude)
        if total is None and not positive:
            part, positive = a.scale(part, -1), True
        total = part if total is None else (a.add if positive else a.sub)(total, part)
    return total


def totals(vectors: Sequence[Vector], parts: int, isa: Isa) -> Vector:
    """The sums of each of `parts` equal parts of each int32 vector, in order, in the first lanes.

    Neighbouring lanes of two vectors are added, until a part is one lane; a last vector without
    partner is its own, so that later lanes repeat sums. len(vectors) * parts <= lanes.
    """
    rest, n, length = list(vectors), isa.lanes, isa.lanes // parts
    while length > 1:
        pairs = [(a, rest[min(i + 1, len(rest) - 1)]) for i, a in list(enumerate(rest))[::2]]
        halves = [[let(shuffle(p, range(k, 2 * n, 2))) for k in (0, 1)] for p in pairs]
        rest, length = [let(isa.add(*half)) for half in halves], length // 2
    assert len(rest) == 1
    return rest[0]
