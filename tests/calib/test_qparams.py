"""calib.qparams against closed forms and exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calib import qparams
from calib.errors import CalibrationError
from calib.qparams import INT8_MAX, INT8_MIN, QParams
from tests.exact import binary32, binary64
from tests.exact import fma as exact_fma

QUICK = settings(max_examples=200, deadline=None)
HUGE = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).smallest_subnormal)
HALF_ULP = Fraction(1, 2**24)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = st.floats(-(2.0**100), 2.0**100, width=32)
scales = st.floats(2.0**-60, 2.0**60, width=32)
zero_points = st.integers(INT8_MIN, INT8_MAX)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# --- scale and zero point


def test_the_oracle_rounds_as_ieee_does() -> None:
    assert binary32(Fraction(1) + HALF_ULP) == 1
    assert binary32(Fraction(1) + 3 * HALF_ULP) == np.float32(1 + 2.0**-22)
    assert binary32(Fraction(TINY) / 2) == 0
    assert binary32(Fraction(TINY) * 3 / 2) == np.float32(2 * TINY)
    assert binary32(Fraction(HUGE) * (1 + HALF_ULP / 2)) == np.float32(HUGE)
    assert binary32(-Fraction(HUGE) * (1 + HALF_ULP)) == -np.inf


@QUICK
@given(st.floats(2.0**-120, HUGE, width=32))
def test_symmetric_is_the_threshold_over_127(threshold: float) -> None:
    q = qparams.symmetric(threshold)
    assert q.scale == binary32(Fraction(threshold) / 127)
    assert q.zero_point == 0


@pytest.mark.parametrize("q", [qparams.symmetric(0), qparams.asymmetric(0, 0)])
def test_an_all_zero_tensor_has_scale_one(q: QParams) -> None:
    assert q == QParams(1.0, 0)


@pytest.mark.parametrize(
    ("lo", "hi", "scale", "zero_point"),
    [
        (0, 255, 1, -128),
        (-255, 0, 1, 127),
        (-128, 127, 1, 0),
        (-127, 128, 1, -1),
        (0.5, 1, 1 / 255, -128),  # widened to contain zero
        (-1, -0.5, 1 / 255, 127),
        (-0.5, 254.5, 1, -128),  # -127.5 rounds to the even -128
        (-1.5, 253.5, 1, -126),  # and -126.5 to the even -126
    ],
)
def test_asymmetric_by_hand(lo: float, hi: float, scale: float, zero_point: int) -> None:
    assert qparams.asymmetric(lo, hi) == QParams(scale, zero_point)


@QUICK
@given(moderate, moderate)
def test_asymmetric_ranges_contain_zero_exactly_and_their_ends_closely(a: float, b: float) -> None:
    lo, hi = min(a, b), max(a, b)
    assume(max(hi, 0) - min(lo, 0) > 1e-30)
    q = qparams.asymmetric(lo, hi)
    zero = qparams.quantize(f32(0), q)
    assert zero[0] == q.zero_point
    assert qparams.dequantize(zero, q)[0] == 0
    ends = f32(min(lo, 0), max(hi, 0))
    back = qparams.dequantize(qparams.quantize(ends, q), q)
    assert np.abs(back - ends).max() <= q.scale * 1.0001


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_thresholds_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="not a positive finite"):
        qparams.symmetric(bad)
    for lo, hi in [(-bad, 1.0), (-1.0, bad), (-bad, bad)]:
        with pytest.raises(CalibrationError, match="not a positive finite"):
            qparams.asymmetric(lo, hi)


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(CalibrationError, match="not a positive finite"):
        qparams.symmetric(-1.0)


def test_a_range_wider_than_binary32_is_refused() -> None:
    with pytest.raises(CalibrationError, match="not a positive finite"):
        qparams.asymmetric(-HUGE, HUGE)


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf, 1e39, 1e-46])
def test_scales_that_are_no_positive_binary32_are_refused(scale: float) -> None:
    with pytest.raises(CalibrationError, match="not a positive finite"):
        QParams(scale)


@pytest.mark.parametrize("zero_point", [-129, 128])
def test_zero_points_outside_int8_are_refused(zero_point: int) -> None:
    with pytest.raises(CalibrationError, match="outside int8"):
        QParams(1.0, zero_point)


def test_a_scale_is_rounded_to_binary32() -> None:
    assert QParams(0.1).scale == float(np.float32(0.1))
    assert QParams(0.1) == QParams(float(np.float32(0.1)))


# --- quantize


def test_halves_round_to_even() -> None:
    x = f32(-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5)
    np.testing.assert_array_equal(qparams.quantize(x, QParams(1.0)), [-4, -2, -2, 0, 0, 2, 2, 4])
    # z is added after rounding: an odd zero point does not change which way a half goes
    np.testing.assert_array_equal(qparams.quantize(x, QParams(1.0, 1)), [-3, -1, -1, 1, 1, 3, 3, 5])


@pytest.mark.parametrize("z", [-128, -1, 0, 5, 127])
@pytest.mark.parametrize("scale", [TINY, 1e-30, 0.1, 1e30])
def test_special_values(scale: float, z: int) -> None:
    x = f32(np.nan, -np.nan, np.inf, -np.inf, HUGE, -HUGE, 0.0, -0.0)
    np.testing.assert_array_equal(
        qparams.quantize(x, QParams(scale, z)), [z, z, 127, -128, 127, -128, z, z]
    )


@QUICK
@given(finite, scales, zero_points)
def test_quantize_is_a_true_division(x: float, scale: float, zero_point: int) -> None:
    v = binary32(Fraction(x) / Fraction(scale))
    rounded = 10**9 if v == np.inf else -(10**9) if v == -np.inf else round(Fraction(float(v)))
    expected = min(max(rounded + zero_point, -128), 127)
    assert qparams.quantize(f32(x), QParams(scale, zero_point))[0] == expected


@QUICK
@given(st.integers(INT8_MIN, INT8_MAX), scales, zero_points)
def test_what_was_dequantized_quantizes_to_itself(q: int, scale: float, zero_point: int) -> None:
    params = QParams(scale, zero_point)
    x = qparams.dequantize(np.array([q], np.int8), params)
    assert x[0] == binary32(Fraction(q - zero_point) * Fraction(scale))
    assert qparams.quantize(x, params)[0] == q


def test_round_clamp_clamps_before_it_converts() -> None:
    v = f32(3e9, -3e9, 1e38, -np.inf, np.inf, np.nan, 255.5, -0.5)
    np.testing.assert_array_equal(
        qparams.round_clamp(v, 0, 0, 255), [255, 0, 255, 0, 255, 0, 255, 0]
    )
    np.testing.assert_array_equal(
        qparams.round_clamp(v, -100, -128, 127), [127, -128, 127, -128, 127, -100, 127, -100]
    )


# --- weights


@QUICK
@given(
    st.lists(moderate, min_size=4, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_weight_scales(values: list[float], per_channel: bool, power2: bool) -> None:
    weight = f32(*values).reshape(2, 1, 1, 2)
    peaks = [max(abs(Fraction(v)) for v in values[:2]), max(abs(Fraction(v)) for v in values[2:])]
    assume(all(p == 0 or p > Fraction(2) ** -100 for p in peaks))
    if not per_channel:
        peaks = [max(peaks)] * 2
    result = qparams.weight_scales(weight, per_channel=per_channel, power2=power2)
    assert result.dtype == np.float32
    for peak, got in zip(peaks, result, strict=True):
        plain = binary32(peak / 127) if peak else np.float32(1)
        if not power2:
            assert got == plain
            continue
        assert math.frexp(got)[0] == 0.5  # a power of two,
        assert got / 2 < plain <= got  # the next one at or above s
        assert peak / Fraction(float(got)) < Fraction(255, 2)  # so nothing clips


def test_power2_keeps_a_scale_that_is_a_power_of_two() -> None:
    weight = f32(127 * 0.25, 1.0).reshape(1, 1, 1, 2)
    for power2 in (False, True):
        assert qparams.weight_scales(weight, per_channel=True, power2=power2) == [0.25]


def test_weights_round_half_to_even_and_use_127_steps_each_way() -> None:
    weight = f32(0.5, 1.5, -2.5, 126.6, -127, 300, -300).reshape(1, 7, 1, 1)
    q_w = qparams.quantize_weights(weight, f32(1))
    assert q_w.dtype == np.int8
    np.testing.assert_array_equal(q_w.ravel(), [0, 2, -2, 127, -127, 127, -127])


@QUICK
@given(st.floats(-1e6, 1e6, width=32), scales, scales)
def test_bias(bias: float, s_x: float, s_w: float) -> None:
    step = binary64(Fraction(s_x) * Fraction(s_w))
    quotient = binary64(Fraction(bias) / step)
    assume(abs(quotient) < 2**62)
    assert qparams.quantize_bias(f32(bias), s_x, f32(s_w))[0] == round(quotient)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_huge_bias_keeps_its_sign_and_stays_beyond_int32(sign: int) -> None:
    big = qparams.quantize_bias(f32(sign * 1e30), 1e-10, f32(1e-10))
    assert big.dtype == np.int64
    assert sign * big[0] > 2**33
    assert abs(big)[0] > 2**33  # not the one int64 without an absolute value


# --- multipliers


@QUICK
@given(scales, scales, scales)
def test_multipliers_are_binary64_left_to_right_then_binary32(a: float, b: float, c: float) -> None:
    product = binary64(Fraction(a) * Fraction(b))
    quotient = binary64(product / Fraction(c))
    assume(2.0**-140 < quotient < 2.0**127)
    assert qparams.requantize_multiplier(a, f32(b), c) == [binary32(quotient)]
    assert qparams.residual_multiplier(a, c) == binary32(binary64(Fraction(a) / Fraction(c)))
    if product < 2.0**118:
        assert qparams.requantize_multiplier(a, f32(b)) == [binary32(product)]
        m255 = binary64(binary64(255 * Fraction(a)) * Fraction(b))
        assert qparams.uint8_multiplier(a, f32(b)) == [binary32(m255)]


def test_multipliers_beyond_binary32_are_refused() -> None:
    s_w = f32(1, 1e30)
    for call in (
        lambda: qparams.requantize_multiplier(1e20, s_w),
        lambda: qparams.requantize_multiplier(1.0, s_w, 1e-20),
        lambda: qparams.uint8_multiplier(1e8, s_w),
        lambda: qparams.residual_multiplier(1e30, 1e-30),
    ):
        with pytest.raises(CalibrationError, match="multiplier"):
            call()


# --- fma


def check_fma(a: float, b: float, c: float) -> None:
    got = qparams.fma(f32(a), np.float32(b), f32(c))
    assert got.dtype == np.float32
    assert got[0] == exact_fma(a, b, c), (a, b, c)


@settings(max_examples=1000, deadline=None)
@given(finite, finite, finite)
def test_fma_of_any_finite_numbers(a: float, b: float, c: float) -> None:
    check_fma(a, b, c)


@settings(max_examples=500, deadline=None)
@given(st.integers(-255, 255), st.floats(2.0**-20, 2.0**20, width=32), st.floats(-4e9, 4e9))
def test_fma_of_residuals(a: int, b: float, c: float) -> None:
    check_fma(a, b, float(np.float32(c)))


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 2**24 - 1),  # significand of c
    st.sampled_from([-1, 1]),
    st.sampled_from([-1, 1]),
    st.sampled_from([0, -1, 1]),  # on a tie, just below, just above
    st.integers(1, 23),
)
def test_fma_near_ties(steps: int, sign_c: int, sign_p: int, nudge: int, bits: int) -> None:
    """c = n ulps, a * b = half an ulp of c but for 2^(-2 bits) of it, or for 2^(1 - bits).

    Where binary64 cannot hold the nudge, rounding twice would take it for a tie.
    """
    exponent = steps.bit_length() - 24
    half = 2.0 ** (exponent - 1)
    tiny = 2.0**-bits
    a, b = (1 + tiny, half * (1 + nudge * tiny)) if nudge else (1.0, half)
    check_fma(sign_p * a, b, float(sign_c * steps))


@pytest.mark.parametrize("sign", [1, -1])
def test_fma_where_rounding_twice_is_wrong(sign: int) -> None:
    """c is odd, a * b half an ulp of it but for 2^-46; binary64 drops that and sees a tie."""
    t = 2.0**-23
    a, b, c = sign * (1 + t), 2.0**-24 * (1 - t), sign * (1 + t)
    assert np.float32(np.float64(a) * b + c) == sign * np.float32(1 + 2 * t)
    assert exact_fma(a, b, c) == c
    check_fma(a, b, c)


@pytest.mark.parametrize("c", [np.inf, -np.inf, np.nan])
def test_fma_passes_infinities_and_nan_on(c: float) -> None:
    got = qparams.fma(f32(-3, 0, 3), np.float32(0.5), f32(c, c, c))
    np.testing.assert_array_equal(got, f32(c, c, c))


def test_fma_overflows_to_infinity() -> None:
    got = qparams.fma(f32(2, -2), np.float32(HUGE), f32(0, 0))
    np.testing.assert_array_equal(got, f32(np.inf, -np.inf))


@pytest.mark.parametrize("std", [[1.0], [0.229, 0.224, 0.225]])
def test_quantize_normalized_by_exact_fractions(std: list[float]) -> None:
    mean, spread = np.float32([0.485, 0.456, 0.406]), np.float32(std)
    x = np.random.default_rng(0).random((3, 50)).astype(np.float32)
    q = qparams.QParams(0.02, -3)
    found = qparams.quantize_normalized(x, mean, spread, q)
    for c in range(3):
        divisor = np.float32(float(spread[c % len(spread)]) * q.scale)
        for value, got in zip(x[c], found[c], strict=True):
            expected = np.rint(np.float32(np.float32(value - mean[c]) / divisor)) - 3
            assert got == np.clip(expected, -128, 127)


def test_quantize_normalized_without_a_normalization_is_quantize() -> None:
    x = np.float32([[0.1, -7, np.nan, np.inf, -np.inf, 3e38, -0.0, 1e-45]])
    q = qparams.QParams(0.013, 5)
    same = qparams.quantize_normalized(x, np.zeros(1, np.float32), np.ones(1, np.float32), q)
    np.testing.assert_array_equal(same, qparams.quantize(x, q))
