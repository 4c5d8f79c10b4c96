"""Matrices applied by additions and multiples, over Python's exact integers."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from compiler.kernels import linear
from compiler.kernels.algebra import POINTS, transform

EXACT = linear.Arithmetic(operator.add, operator.sub, operator.mul)


@pytest.mark.parametrize("m", sorted(POINTS))
def test_every_matrix_of_the_transforms(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "let", lambda value: value)
    t = transform(m)
    x = [int(v) for v in np.random.default_rng(m).integers(-(10**6), 10**6, t.n)]
    for apply in (linear.by_rows, linear.by_columns):
        for matrix in (t.BT, t.AT):
            assert apply(matrix, x, EXACT) == [int(v) for v in matrix @ np.array(x)]


def test_points_p_and_minus_p_are_found() -> None:
    assert linear.mirrored([1, 2, 4], [1, -2, 4])
    assert not linear.mirrored([1, 2, 4], [1, 2, 4])
    assert not linear.mirrored([1, 0, 4], [1, 0, 4])
    assert not linear.mirrored([0, 2, 0], [0, -2, 0])
