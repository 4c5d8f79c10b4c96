"""IEEE binary32 in rational arithmetic: an oracle that shares nothing with NumPy's rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

_LEAST_EXPONENT = -126  # of normal numbers
_FRACTION_BITS = 23
_OVERFLOW = Fraction(2) ** 128


def binary32(x: Fraction) -> np.float32:
    """The binary32 number nearest to x, of two equally near the even one; infinity beyond them."""
    if x == 0:
        return np.float32(0)
    exponent = max(_floor_log2(abs(x)), _LEAST_EXPONENT) - _FRACTION_BITS
    steps = round(abs(x) / Fraction(2) ** exponent)  # of a Fraction: half to even
    nearest = steps * Fraction(2) ** exponent
    value = float("inf") if nearest >= _OVERFLOW else float(nearest)
    return np.float32(value if x > 0 else -value)


def binary64(x: Fraction) -> Fraction:
    """The binary64 number nearest to x; Python's division of integers is correctly rounded."""
    return Fraction(x.numerator / x.denominator)


def fma(a: float, b: float, c: float) -> np.float32:
    """a * b + c of finite numbers, rounded once to binary32."""
    return binary32(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))


def _floor_log2(x: Fraction) -> int:
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1
