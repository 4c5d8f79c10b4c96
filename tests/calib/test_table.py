import dataclasses
import json

import numpy as np
import pytest

from calib import qparams
from calib.errors import CalibrationError
from calib.histogram import Histogram, Range
from calib.methods import METHODS, Max, Percentile
from calib.qparams import quantize
from calib.table import CalibrationTable, calibrate, from_range, of_bytes, warnings


def histogram(x: np.ndarray) -> Histogram:
    x = np.asarray(x, np.float32).reshape(1, -1)
    return Histogram.empty(Range.of(x)).add(x)


def normal(seed: int = 0, n: int = 100_000) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def test_symmetric_and_asymmetric_scales_by_hand():
    hist = histogram([-0.5, 2.0])
    t = calibrate(hist, Max(), symmetric=True)
    assert (t.min, t.max, t.low, t.high, t.threshold) == (-0.5, 2, -2, 2, 2)
    assert (t.scale, t.zero_point, t.clipped_fraction) == (np.float32(2 / 127), 0, 0)
    t = calibrate(hist, Max(), symmetric=False)
    assert (t.low, t.high, t.threshold) == (-0.5, 2, 2)
    assert (t.scale, t.zero_point) == (np.float32(2.5 / 255), -77)


@pytest.mark.parametrize("symmetric", [True, False])
def test_all_zero(symmetric):
    t = calibrate(histogram(np.zeros(4)), Max(), symmetric)
    assert (t.scale, t.zero_point, t.threshold, t.clipped_fraction) == (1, 0, 0, 0)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-0.3, 1.7), (0.0, 2.0), (-9.0, 9.0)])
def test_clipped_fraction_agrees_with_counting(bounds):
    x = normal()
    t = from_range(histogram(x), *bounds, "by hand", symmetric=False)
    counted = np.mean((x < bounds[0]) | (x > bounds[1]))
    assert t.clipped_fraction == pytest.approx(counted, abs=2e-4)
    assert t.clipped_fraction >= 0


def test_json_round_trip_is_exact_and_sorted():
    hist = histogram(normal())
    table = CalibrationTable(
        {name: calibrate(hist, m(), True) for name, m in sorted(METHODS.items(), reverse=True)}
    )
    text = table.to_json()
    assert list(json.loads(text)) == sorted(METHODS)
    assert CalibrationTable.from_json(text) == table
    assert CalibrationTable.from_json(text).to_json() == text
    assert set(json.loads(text)["max"]) >= {
        "method", "min", "max", "threshold", "scale", "zero_point", "clipped_fraction"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": {"scale": 1}}', '{"x": []}'])
def test_bad_json_names_the_file(text):
    with pytest.raises(CalibrationError, match=r"calibration\.json"):
        CalibrationTable.from_json(text or "nothing", where="calibration.json")


def test_an_empty_histogram_and_a_missing_tensor_are_refused():
    empty = Histogram.empty(Range.of(np.ones((1, 1), np.float32)))
    with pytest.raises(CalibrationError, match="nothing was counted"):
        calibrate(empty, Max(), True)
    with pytest.raises(CalibrationError, match="no tensor y"):
        CalibrationTable({})["y"]


def table(t: object) -> CalibrationTable:
    return CalibrationTable({"x1": t})  # type: ignore[dict-item]


def test_a_settled_calibration_has_no_warnings():
    halves = [table(calibrate(histogram(normal(s)), Percentile(), True)) for s in (1, 2)]
    assert warnings(halves[0], (halves[0], halves[1])) == ()


def test_a_moving_threshold_is_reported():
    t = calibrate(histogram(normal()), Max(), True)
    smaller = dataclasses.replace(t, low=0.8 * t.low, high=0.8 * t.high)
    (message,) = warnings(table(t), (table(t), table(smaller)))
    assert "x1" in message
    assert "20 %" in message


def test_visible_clipping_is_reported():
    t = calibrate(histogram(normal()), Percentile(0.99), True)
    (message,) = warnings(table(t), (table(t), table(t)))
    assert "x1: percentile clips 1 %" in message


def test_a_single_image_is_reported():
    t = calibrate(histogram(normal()), Max(), True)
    (message,) = warnings(table(t), None)
    assert "one image" in message
    assert t.qparams == qparams.symmetric(t.threshold)


@pytest.mark.parametrize(
    ("values", "symmetric", "zero_point"),
    [
        (np.arange(256) / 255, False, -128),
        ((np.arange(256) - 128) / 255, True, 0),
        ((np.arange(256) - 128) / 255, False, 0),
        ((np.arange(256) - 100.0), False, -28),
    ],
)
def test_an_image_that_int8_holds_loses_nothing(
    values: np.ndarray, symmetric: bool, zero_point: int
) -> None:
    table = np.tile(values.astype(np.float32), (3, 1))
    found = of_bytes(histogram([0]), table, symmetric)
    assert (found.zero_point, found.method, found.clipped_fraction) == (zero_point, "lossless", 0)
    q = quantize(table, found.qparams)
    np.testing.assert_array_equal(q, np.tile(np.arange(-128, 128), (3, 1)))


@pytest.mark.parametrize(
    ("values", "symmetric"),
    [
        (np.arange(256) / 255, True),  # 256 values, 128 levels
        ((np.arange(256) - 127.5) / 127.5, True),  # between the levels
        (np.zeros(256), True),
        (np.linspace(0, 1, 256) ** 2, False),
    ],
)
def test_an_image_that_int8_does_not_hold_keeps_its_range(
    values: np.ndarray, symmetric: bool
) -> None:
    found = of_bytes(histogram([0]), values.astype(np.float32)[None], symmetric)
    assert found.method == "bytes"
    assert found.threshold == np.float32(np.abs(values).max())
    assert found.low == (-found.high if symmetric else 0)


def test_channels_with_steps_of_their_own_share_no_scale() -> None:
    values = np.float32([np.arange(256) - 128, 2 * (np.arange(256) - 128)])
    found = of_bytes(histogram([0]), values, True)
    assert (found.method, found.threshold) == ("bytes", 256)
