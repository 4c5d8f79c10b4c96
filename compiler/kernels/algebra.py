"""Winograd's minimal filtering over the integers: matrices, factors and bounds, all derived.

Y = A^T [(G w G^T) * (B^T d B)] A computes the m x m outputs of a 3x3 correlation from an (m+2) x
(m+2) tile d with (m+2)^2 multiplications (Lavin & Gray 2016, "Fast Algorithms for Convolutional
Neural Networks"). G has fractions: for m = 4 the points are 0, 1, -1, 2, -2, infinity. Ours is how
it stays exact in integers, for int8 operands:
- B^T and A^T are integral. Each row i of G is multiplied by the integer k / a_i, where column i of
  A^T is multiplied by a_i; then the result is k^2 y, exact modulo 2^32.
- k^2 = 2^shift * odd, and odd has an inverse modulo 2^32: multiplying by it leaves 2^shift y, exact
  wherever |2^shift y| < 2^31. The factor 2^shift goes into the requantization scale, exactly.
- An accumulator that starts at c in the frequency of the point (1, 1) adds c to every output of the
  tile, since A^T has only ones in the column of the point 1: the bias costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import lcm, prod

import numpy as np
from numpy.typing import NDArray

from calib.qparams import I8

I64 = NDArray[np.int64]
Matrix = list[list[Fraction]]
POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}  # the last point is infinity
TAPS = 3
INT16_MAX = 2**15 - 1
INT8_PEAK = 127  # of weights


@dataclass(frozen=True, eq=False)
class Transform:
    """F(m x m, 3 x 3) in integers.

    Attributes:
        m: outputs a tile side; n = m + 2 inputs a side.
        BT, G, AT: int64 [n, n], [n, 3], [m, n]; the result is factor * y.
        factor: k^2 = 2^shift * odd.
        inverse: the inverse of `odd` modulo 2^32.
        unit: index of the point 1.
    """

    m: int
    BT: I64
    G: I64
    AT: I64
    factor: int
    shift: int
    inverse: int
    unit: int

    @property
    def n(self) -> int:
        """Inputs a tile side."""
        return self.m + TAPS - 1

    @property
    def input_gain(self) -> int:
        """max |B^T d B| / max |d|."""
        return int(np.abs(self.BT).sum(axis=1).max() ** 2)

    def inputs(self, lo: int, hi: int) -> tuple[I64, I64]:
        """The least and the greatest (B^T d B)[i, j] of any lo <= d <= hi: int64 [n * n] each."""
        gains = np.einsum("ia,jb->ijab", self.BT, self.BT).reshape(self.n**2, -1)
        up, down = np.maximum(gains, 0).sum(axis=1), np.minimum(gains, 0).sum(axis=1)
        return lo * up + hi * down, hi * up + lo * down

    def outputs(self, M: I64) -> I64:
        """A^T M A of int64 [n * n, ...]: [m, m, ...]."""
        Y: I64 = np.einsum(
            "pi,ij...,qj->pq...", self.AT, M.reshape(self.n, self.n, *M.shape[1:]), self.AT
        )
        return Y

    def weights(self, w: I8) -> I64:
        """U = G w G^T of int8 weights [O, I, 3, 3]: int64 [n * n, O, I]."""
        U: I64 = np.einsum("ia,ocab,jb->ijoc", self.G, w.astype(np.int64), self.G)
        return U.reshape(self.n**2, *w.shape[:2])


def _cook_toom(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """B^T, G, A^T of F(m, 3) over the rationals, by Lagrange interpolation at the points.

    A^T[i][j] = p_j^i, G[j] = (1, p_j, p_j^2) / N_j with N_j = prod_{k != j} (p_j - p_k), and row j
    of B^T holds the coefficients of prod_{k != j} (x - p_k); the point at infinity has the leading
    coefficients and the product over all points.
    """
    points = [Fraction(p) for p in POINTS[m]]
    others = [[q for q in points if q != p] for p in points]
    AT = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    G = [
        [p**k / prod((p - q for q in o), start=Fraction(1)) for k in range(TAPS)]
        for p, o in zip(points, others, strict=True)
    ]
    G.append([Fraction(0), Fraction(0), Fraction(1)])
    n = m + TAPS - 1
    BT = [_polynomial(o, n) for o in others] + [_polynomial(points, n)]
    return BT, G, AT


def _polynomial(roots: list[Fraction], size: int) -> list[Fraction]:
    """Coefficients of prod (x - root), from x^0 up, padded to `size`."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [
            s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)
        ]
    return coefficients + [Fraction(0)] * (size - len(coefficients))


@cache
def transform(m: int) -> Transform:
    """F(m x m, 3 x 3) for m = 2 or 4, with every matrix integral and the smallest factor k^2."""
    BT, G, AT = _cook_toom(m)
    k = lcm(*(value.denominator for row in G for value in row))
    scaled = [[value * k for value in row] for row in G]
    columns = [list(column) for column in zip(*AT, strict=True)]
    while INT8_PEAK * (peak := max(sum(map(abs, row)) for row in scaled)) ** 2 > INT16_MAX:
        i = next(i for i, row in enumerate(scaled) if sum(map(abs, row)) == peak)
        scaled[i] = [value / 2 for value in scaled[i]]  # U must fit int16: A^T takes the 2
        columns[i] = [value * 2 for value in columns[i]]
    factor = k * k
    shift = (factor & -factor).bit_length() - 1
    integral = [
        np.array([[int(v) for v in row] for row in M], np.int64)
        for M in (BT, scaled, zip(*columns, strict=True))
    ]
    return Transform(
        m,
        integral[0],
        integral[1],
        integral[2],
        factor,
        shift,
        pow(factor >> shift, -1, 2**32),
        POINTS[m].index(1),
    )


def products_of_pairs(U: I64) -> I64:
    """sum U_c U_d, of the channels that inner products pair: [n * n, O, I] to [n * n, O]."""
    words = U.reshape(*U.shape[:2], -1, 2, 2)  # [i j, o, pair of words, word, channel]
    sums: I64 = (words[..., 0, :] * words[..., 1, :]).sum(axis=(2, 3))
    return sums


@dataclass(frozen=True)
class Proof:
    """Shares of the bounds that a layer uses; it may use a transform while all are below 1.

    Attributes:
        output: max over output channels of |2^shift y| / 2^31.
        weight: max |U| / 2^15.
        input: max |V| / 2^15.
        sum: max |V + U| / 2^15, of one frequency and any two channels.
    """

    output: float
    weight: float
    input: float
    sum: float

    @property
    def holds(self) -> bool:
        """Every bound of the products V U is kept."""
        return max(self.output, self.weight, self.input) < 1

    @property
    def pairs(self) -> bool:
        """V + U fits int16 too: the products may be made as inner products (`products`)."""
        return self.sum < 1


def prove(t: Transform, weight: I8, accumulator_bounds: I64, inputs: tuple[int, int]) -> Proof:
    """The exactness proof of one layer.

    Args:
        weight: int8 [O, I, 3, 3].
        accumulator_bounds: largest |acc| of each output channel for any input, bias included.
        inputs: the least and the greatest stored activation.
    """
    output = int(accumulator_bounds.max()) << t.shift
    U, (least, greatest) = t.weights(weight), t.inputs(*inputs)
    sums = (greatest + U.max(axis=(1, 2))).max(), -(least + U.min(axis=(1, 2))).min()
    return Proof(
        output / 2**31,
        int(np.abs(U).max()) / 2**15,
        t.input_gain * max(map(abs, inputs)) / 2**15,
        int(max(sums)) / 2**15,
    )
