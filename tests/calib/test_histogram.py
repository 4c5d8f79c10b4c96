import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib.errors import CalibrationError
from calib.histogram import (
    BINS,
    Histogram,
    Range,
    dump_histograms,
    dump_ranges,
    load_histograms,
    load_ranges,
)

activations = hnp.arrays(
    np.float32,
    st.tuples(st.just(3), st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(-1e6, 1e6, width=32),
)
batches = st.lists(activations, min_size=1, max_size=5)


def range_of(batch: list[np.ndarray]) -> Range:
    seen = Range.of(batch[0])
    for x in batch[1:]:
        seen = seen.merge(Range.of(x))
    return seen


def histogram_of(batch: list[np.ndarray], seen: Range) -> Histogram:
    hist = Histogram.empty(seen)
    for x in batch:
        hist = hist.add(x)
    return hist


def same(a: Range, b: Range) -> bool:
    return np.array_equal(a.min, b.min) and np.array_equal(a.max, b.max)


@settings(deadline=None)
@given(activations, activations, activations)
def test_merging_ranges_is_associative_and_commutative(a, b, c):
    ra, rb, rc = Range.of(a), Range.of(b), Range.of(c)
    assert same(ra.merge(rb).merge(rc), ra.merge(rb.merge(rc)))
    assert same(ra.merge(rb), rb.merge(ra))


def test_range_is_per_channel():
    x = np.array([[[1, -2]], [[5, 4]]], np.float32)
    seen = Range.of(x)
    assert seen.min.tolist() == [-2, 4]
    assert seen.max.tolist() == [1, 5]
    assert (seen.low, seen.high) == (-2, 5)
    assert seen.scaled(np.array([2, 0.5], np.float32)).max.tolist() == [2, 2.5]


@settings(deadline=None)
@given(batches, st.randoms())
def test_histogram_is_independent_of_order_and_split(batch, random):
    seen = range_of(batch)
    whole = histogram_of(batch, seen)
    shuffled = random.sample(batch, len(batch))
    cut = random.randint(0, len(batch))
    merged = histogram_of(shuffled[:cut], seen).merge(histogram_of(shuffled[cut:], seen))
    pixels = [x[:, i : i + 1, j : j + 1] for x in batch for i, j in np.ndindex(x.shape[1:])]
    assert np.array_equal(whole.counts, merged.counts)
    assert np.array_equal(whole.counts, histogram_of(pixels, seen).counts)
    assert whole.total == sum(x.size for x in batch)


@settings(deadline=None)
@given(batches)
def test_folding_is_the_histogram_of_magnitudes(batch):
    seen = range_of(batch)
    folded = histogram_of(batch, seen).magnitudes
    limit = np.float32(max(abs(seen.low), abs(seen.high)))
    magnitudes = [np.abs(x) for x in batch]
    # the same edges: a range whose limit is the same
    ends = Range(np.array([0], np.float32), np.array([limit]))
    positive = histogram_of(magnitudes, ends)
    assert np.array_equal(folded, positive.magnitudes)
    assert positive.counts[: BINS // 2].sum() == 0


def test_counts_agree_with_numpy_away_from_the_edges():
    rng = np.random.default_rng(0)
    hist = Histogram.empty(Range.of(np.array([[-3, 2]], np.float32)), 2**11)
    centres = (hist.edges[:-1] + hist.edges[1:]) / 2
    x = rng.choice(centres, 100_000).astype(np.float32).reshape(10, 100, 100)
    assert np.array_equal(hist.add(x).counts, np.histogram(x, hist.edges)[0])


def test_extremes_and_zero_fall_into_their_bins():
    x = np.array([[-2.0, 2.0, 0.0, -0.0, 1.0, -1.0]], np.float32)
    hist = Histogram.empty(Range.of(x)).add(x)
    half = BINS // 2
    expected = {0: 1, BINS - 1: 1, half: 2, half + half // 2: 1, half - 1 - half // 2: 1}
    assert {int(i): int(hist.counts[i]) for i in np.flatnonzero(hist.counts)} == expected


def test_values_beyond_the_edges_count_in_the_outermost_bins():
    hist = Histogram.empty(Range.of(np.array([[-1, 1]], np.float32)))
    counts = hist.add(np.array([-1.5, 1.001], np.float32)).counts
    assert counts[0] == counts[-1] == 1


@pytest.mark.parametrize("value", [0.0, 1e-38, 3e38])
def test_all_zero_tiny_and_huge_tensors(value):
    x = np.full((2, 3, 3), value, np.float32)
    hist = Histogram.empty(Range.of(x)).add(x)
    assert hist.total == 18
    assert hist.counts[BINS // 2 if value < 1 else BINS - 1] == 18


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_activations_name_the_tensor(value):
    x = np.zeros((2, 4, 4), np.float32)
    x[1, 2, 3] = value
    with pytest.raises(CalibrationError, match="tensor x2"):
        Range.of(x, "x2")
    with pytest.raises(CalibrationError, match="tensor x2"):
        Histogram.empty(Range.of(x[:1])).add(x, "x2")


def test_an_empty_activation_is_refused():
    with pytest.raises(CalibrationError, match="empty"):
        Range.of(np.zeros((2, 0, 4), np.float32), "x")


@pytest.mark.parametrize("bins", [1000, 1024, 3000, 0])
def test_bin_counts_that_are_no_power_of_two_or_too_few(bins):
    with pytest.raises(CalibrationError, match="bins"):
        Histogram.empty(Range.of(np.ones((1, 1), np.float32)), bins)


def test_histograms_of_different_ranges_do_not_add():
    a, b = (Histogram.empty(Range.of(np.full((1, 1), v, np.float32))) for v in (1, 2))
    with pytest.raises(CalibrationError, match="cannot be added"):
        a.merge(b)


def test_npz_round_trip_is_deterministic():
    rng = np.random.default_rng(1)
    xs = {name: rng.normal(size=(c, 5, 5)).astype(np.float32) for name, c in [("b/x", 3), ("a", 1)]}
    ranges = {name: Range.of(x) for name, x in xs.items()}
    histograms = {name: Histogram.empty(ranges[name]).add(x) for name, x in xs.items()}
    backwards = dict(reversed(histograms.items()))
    assert dump_histograms(histograms) == dump_histograms(backwards)
    for name, hist in load_histograms(dump_histograms(histograms)).items():
        assert (hist.low, hist.high) == (histograms[name].low, histograms[name].high)
        assert np.array_equal(hist.counts, histograms[name].counts)
    loaded = load_ranges(dump_ranges(ranges))
    assert all(same(loaded[name], ranges[name]) for name in ranges)
    assert load_ranges(dump_ranges({})) == {}
    assert load_histograms(dump_histograms({})) == {}
