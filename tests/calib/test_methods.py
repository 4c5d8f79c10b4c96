import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib import qparams
from calib.errors import CalibrationError
from calib.histogram import Histogram, Range
from calib.methods import METHODS, KlDivergence, Max, Mse, Percentile, method

ALL = [m() for m in METHODS.values()]
EVERY = pytest.mark.parametrize("m", ALL, ids=list(METHODS))
BOTH = pytest.mark.parametrize("symmetric", [True, False])


def histogram(x: np.ndarray) -> Histogram:
    x = np.asarray(x, np.float32).reshape(1, -1)
    return Histogram.empty(Range.of(x)).add(x)


def squared_error(x: np.ndarray, q: qparams.QParams) -> float:
    x = np.asarray(x, np.float32)
    error = qparams.dequantize(qparams.quantize(x, q), q).astype(np.float64) - x
    return float(np.mean(error**2))


values = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e3, 1e3, width=32))


@EVERY
@BOTH
@settings(deadline=None, max_examples=25)
@given(x=values)
def test_every_range_contains_zero_and_lies_within_what_was_seen(m, symmetric, x):
    hist = histogram(x)
    lo, hi = m.range(hist, symmetric)
    assert lo <= 0 <= hi
    if symmetric:
        assert lo == -hi
        assert hi <= np.abs(x).max()
    else:
        assert lo >= min(x.min(), 0)
        assert hi <= max(x.max(), 0)


@EVERY
@BOTH
def test_an_all_zero_tensor(m, symmetric):
    assert m.range(histogram(np.zeros(9)), symmetric) == (0, 0)


@EVERY
@pytest.mark.parametrize("value", [5.0, -0.37])
def test_a_single_value_is_kept(m, value):
    hist = histogram(np.full(100, value))
    lo, hi = m.range(hist, True)
    q = qparams.symmetric(hi)
    assert squared_error(np.array([value]), q) <= (q.scale / 2) ** 2
    lo, hi = m.range(hist, False)
    assert (lo, hi)[value > 0] == pytest.approx(value, rel=0.03)
    assert (lo, hi)[value < 0] == 0


def test_max_is_exact():
    hist = histogram([-0.7, 0.1, 1.3])
    assert Max().range(hist, True) == (-np.float32(1.3), np.float32(1.3))
    assert Max().range(hist, False) == (np.float32(-0.7), np.float32(1.3))
    assert Max().range(histogram([0.2, 0.4]), False) == (0, np.float32(0.4))


@settings(deadline=None)
@given(x=values, p=st.floats(0.6, 1))
def test_percentile_clips_no_more_than_it_says(x, p):
    assume(np.abs(x).max() == 0 or np.abs(x).max() > 2.0**-100)  # smaller ones count as zero
    hist = histogram(x)
    slack = hist.width * 1e-3  # of the bin index, computed in binary32
    _, threshold = Percentile(p).range(hist, True)
    assert np.mean(np.abs(x) > threshold + slack) <= 1 - p + 1e-9
    lo, hi = Percentile(p).range(hist, False)
    assert np.mean(x > hi + slack) <= (1 - p) / 2 + 1e-9
    assert np.mean(x < lo - slack) <= (1 - p) / 2 + 1e-9


def test_percentile_of_a_uniform_ramp():
    x = (np.arange(2**16) + 0.5) / 2**15 - 1  # uniform on [-1, 1]
    hist = histogram(x)
    assert Percentile(0.9).range(hist, True)[1] == pytest.approx(0.9, abs=hist.width)
    assert Percentile(0.9).range(hist, False) == pytest.approx((-0.9, 0.9), abs=hist.width)
    assert Percentile(0.8).range(histogram(np.abs(x)), False) == pytest.approx((0, 0.9), abs=1e-3)


def normal(n: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(n)


def test_percentile_of_a_gaussian():
    hist = histogram(normal(1_000_000))
    assert Percentile(0.95).range(hist, True)[1] == pytest.approx(1.960, abs=0.01)
    assert Percentile(0.99).range(hist, False) == pytest.approx((-2.576, 2.576), abs=0.03)


def test_mse_of_a_gaussian_is_the_published_optimum():
    """Banner et al., "Post training 4-bit quantization" (2019), alpha = 3.92 sigma at 8 bits.

    They approximate the rounding noise; the minimum is flat, so 4 % of alpha is 0.1 % of error.
    """
    x = normal(1_000_000)
    _, threshold = Mse().range(histogram(x), True)
    assert threshold == pytest.approx(3.92, rel=0.04)
    lo, hi = Mse().range(histogram(x), False)
    assert (lo, hi) == pytest.approx((-3.92, 3.92), rel=0.06)


def test_mse_keeps_all_of_a_uniform_distribution():
    x = np.linspace(-1, 1, 100_001)
    assert Mse().range(histogram(x), True)[1] > 0.95
    lo, hi = Mse().range(histogram(np.abs(x)), False)
    assert lo == 0
    assert hi > 0.95


@pytest.mark.parametrize("q", [qparams.symmetric(2.5), qparams.asymmetric(-0.4, 1.9)])
def test_mse_error_agrees_with_quantizing_every_value(q):
    x = np.random.default_rng(3).normal(0.5, 0.8, 300_000).astype(np.float32)
    assert Mse.error(histogram(x), q) == pytest.approx(squared_error(x, q), rel=2e-3)


def test_mse_finds_the_minimum_of_the_true_error():
    x = np.random.default_rng(4).laplace(size=100_000).astype(np.float32)
    hist = histogram(x)
    _, threshold = Mse().range(hist, True)
    grid = hist.limit * np.linspace(0.05, 1, 300)
    best = min(squared_error(x, qparams.symmetric(t)) for t in grid)
    assert squared_error(x, qparams.symmetric(threshold)) <= 1.002 * best


def test_mse_ignores_one_outlier_among_many():
    x = np.append(np.random.default_rng(5).uniform(-1, 1, 2_000_000), 10)
    assert Mse().range(histogram(x), True)[1] < 1.5
    assert Max().range(histogram(x), True)[1] == 10


def test_kl_divergence_of_a_distribution_that_quantizes_exactly_is_zero():
    """One bin a level: nothing is merged and nothing is clipped."""
    x = np.arange(-127, 128) / 127
    assert KlDivergence.divergence(histogram(x), qparams.symmetric(1)) == pytest.approx(0, abs=1e-9)


def test_kl_divergence_by_hand():
    """Two bins of 3 and 1 values in one level: 3/4 log(3/2) + 1/4 log(1/2), times its share."""
    hist = Histogram(-1.0, 1.0, np.zeros(2**13, np.int64))
    hist.counts[4096 + 32 * 40], hist.counts[4096 + 32 * 40 + 1], hist.counts[-1] = 3, 1, 4
    by_hand = (0.75 * np.log(1.5) + 0.25 * np.log(0.5)) / 2
    assert KlDivergence.divergence(hist, qparams.symmetric(1)) == pytest.approx(by_hand)


def test_kl_divergence_charges_clipping_at_the_floor():
    hist = Histogram(-1.0, 1.0, np.zeros(2**13, np.int64))
    hist.counts[4096 + 100], hist.counts[-1] = 1, 1
    by_hand = 0.5 * np.log(0.5 / 1e-12)
    assert KlDivergence.divergence(hist, qparams.symmetric(0.5)) == pytest.approx(by_hand)


def test_kl_divergence_does_not_cut_a_sharp_end_and_drops_a_sparse_tail():
    rng = np.random.default_rng(6)
    bulk = rng.beta(2, 4, 1_000_000)
    assert KlDivergence().range(histogram(bulk), True)[1] > 0.9 * bulk.max()
    tail = np.append(bulk, rng.uniform(1, 8, 3))
    assert KlDivergence().range(histogram(tail), True)[1] < 2


@pytest.mark.parametrize("p", [0, 0.5, 1.0001, -1, float("nan")])
def test_percentile_refuses_a_range_that_is_no_fraction(p):
    with pytest.raises(CalibrationError, match="calibrate_range"):
        Percentile(p)


def test_the_registry():
    assert sorted(METHODS) == ["kl_divergence", "max", "mse", "percentile"]
    assert method("percentile", 0.999) == Percentile(0.999)
    assert method("percentile") == Percentile()
    assert method("mse", 0.999) == Mse()
    with pytest.raises(CalibrationError, match="did you mean percentile"):
        method("precentile")
    with pytest.raises(CalibrationError, match="use one of max"):
        method("entropy")
