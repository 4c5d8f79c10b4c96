"""Winograd's transforms against the definition of correlation, over Python's exact integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.kernels.algebra import INT16_MAX, POINTS, prove, transform

SIZES = sorted(POINTS)


def correlate(d: np.ndarray, w: np.ndarray, m: int) -> np.ndarray:
    return np.array([[(d[i : i + 3, j : j + 3] * w).sum() for j in range(m)] for i in range(m)])


@pytest.mark.parametrize("m", SIZES)
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_result_is_the_factor_times_the_correlation(m: int, seed: int) -> None:
    t, rng = transform(m), np.random.default_rng(seed)
    d = rng.integers(-255, 256, (t.n, t.n))
    w = rng.integers(-127, 128, (3, 3))
    U = t.G @ w @ t.G.T
    V = t.BT @ d @ t.BT.T
    Y = t.AT @ (U * V) @ t.AT.T
    np.testing.assert_array_equal(Y, t.factor * correlate(d, w, m))


@pytest.mark.parametrize("m", SIZES)
def test_the_inverse_leaves_a_power_of_two(m: int) -> None:
    t = transform(m)
    assert t.factor * t.inverse % 2**32 == 2**t.shift
    assert (t.factor, t.shift) == {2: (4, 2), 4: (576, 6)}[m]


@pytest.mark.parametrize("m", SIZES)
def test_a_start_at_the_unit_frequency_is_added_to_every_output(m: int) -> None:
    t = transform(m)
    M = np.zeros((t.n, t.n), np.int64)
    M[t.unit, t.unit] = 7
    np.testing.assert_array_equal(t.AT @ M @ t.AT.T, np.full((m, m), 7))


@pytest.mark.parametrize("m", SIZES)
def test_extremes_fit_int16(m: int) -> None:
    t = transform(m)
    worst = np.sign(t.G[:, None, :, None] * t.G[None, :, None, :]) * 127
    U = np.einsum("ia,ijab,jb->ij", t.G, worst, t.G)
    assert np.abs(U).max() <= INT16_MAX
    signs = np.sign(t.BT[:, None, :, None] * t.BT[None, :, None, :])
    V = np.einsum("ia,ijab,jb->ij", t.BT, signs * 255, t.BT)
    assert V.max() == t.input_gain * 255 <= INT16_MAX


def test_the_proof_holds_up_to_the_bound_of_the_issue() -> None:
    """64 * 128 * sum |w| < 2^31: 229 channels of extremes hold, 230 do not."""
    for channels, holds in ((228, True), (229, True), (230, False)):
        weight = np.full((2, channels, 3, 3), 127, np.int8)
        bounds = np.full(2, 128 * 127 * 9 * channels, np.int64)
        assert prove(transform(4), weight, bounds, (-128, 127)).holds is holds
        assert prove(transform(2), weight, bounds, (-128, 127)).holds


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("ends", [(0, 255), (-128, 127)])
def test_the_range_of_transformed_inputs_is_reached_and_kept(m: int, ends: tuple[int, int]) -> None:
    t, (lo, hi) = transform(m), ends
    least, greatest = (bound.reshape(t.n, t.n) for bound in t.inputs(lo, hi))
    for i in range(t.n):
        for j in range(t.n):
            gain = np.outer(t.BT[i], t.BT[j])
            for bound, d in (
                (greatest, np.where(gain > 0, hi, lo)),
                (least, np.where(gain > 0, lo, hi)),
            ):
                assert (t.BT @ d @ t.BT.T)[i, j] == bound[i, j]
    d = np.random.default_rng(0).integers(lo, hi + 1, (500, t.n, t.n))
    V = t.BT @ d @ t.BT.T
    assert (least <= V).all()
    assert (greatest >= V).all()


def test_sums_of_inputs_and_weights_fit_int16_or_are_not_made() -> None:
    """Weights of 127 are 144 * 127 at the points (1, 1), where inputs reach 68 * 255."""
    bounds = np.zeros(2, np.int64)
    for peak, sum_ in ((127, 18288 + 17340), (100, 14400 + 17340)):
        proof = prove(transform(4), np.full((2, 3, 3, 3), peak, np.int8), bounds, (0, 255))
        assert proof.sum == sum_ / 2**15
        assert proof.pairs is (sum_ < 2**15)
        assert proof.holds
    less = prove(transform(4), np.full((2, 3, 3, 3), -127, np.int8), bounds, (-255, 0))
    assert less.sum == (18288 + 17340) / 2**15
    signed = prove(transform(4), np.full((2, 3, 3, 3), 127, np.int8), bounds, (-128, 127))
    assert signed.pairs


def test_the_outputs_of_products_are_those_of_the_definition() -> None:
    t = transform(4)
    M = np.random.default_rng(0).integers(-99, 99, (t.n, t.n, 7))
    Y = t.outputs(M.reshape(t.n**2, 7))
    for o in range(7):
        np.testing.assert_array_equal(Y[..., o], t.AT @ M[..., o] @ t.AT.T)


def test_weights_are_transformed_per_pair_of_channels() -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (5, 3, 3, 3)).astype(np.int8)
    t = transform(4)
    U = t.weights(w)
    assert U.shape == (36, 5, 3)
    np.testing.assert_array_equal(U[:, 4, 2].reshape(6, 6), t.G @ w[4, 2].astype(np.int64) @ t.G.T)
