from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib.bicubic import crop_to_multiple, downscale, imresize, upscale
from calib.errors import ImageError

SET5 = Path(__file__).parents[2].parent / "shared" / "data" / "set5"

uint8_images = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4, 5])),
    elements=st.integers(0, 255),
)


def cubic(x: float) -> float:
    """Keys 1981, equation 15, a = -1/2."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def matrix(size: int, resized: int) -> np.ndarray:
    """Slow and obvious [resized, size]: every output sees every mirrored input."""
    scale = resized / size
    shrink = min(scale, 1.0)
    result = np.zeros((resized, size))
    margin = int(2 / shrink) + 3
    for i in range(resized):
        centre = (i + 0.5) / scale - 0.5
        for j in range(-margin, size + margin):
            mirrored = j % (2 * size)
            mirrored = mirrored if mirrored < size else 2 * size - 1 - mirrored
            result[i, mirrored] += cubic(shrink * (centre - j))
    return result / result.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rate", [2, 3, 4])
@pytest.mark.parametrize("name", ["baby", "bird", "butterfly", "head", "woman"])
def test_equals_matlab_on_set5(name: str, rate: int) -> None:
    if not SET5.is_dir():
        pytest.skip("the Set5 images beside the repository are absent")
    hr = cv2.imread(str(SET5 / "HR" / f"{name}.png"))
    lr = cv2.imread(str(SET5 / "LR_bicubic" / f"X{rate}" / f"{name}x{rate}.png"))
    assert np.array_equal(downscale(crop_to_multiple(hr, rate), rate), lr)


@given(uint8_images, st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_equals_dense_matrices(image: np.ndarray, height: int, width: int) -> None:
    rows, columns = matrix(image.shape[0], height), matrix(image.shape[1], width)
    rows_first = height / image.shape[0] <= width / image.shape[1]
    steps = [("ij,jkc->ikc", rows), ("ij,kjc->kic", columns)]
    expected = image.astype(np.float64)
    unsure = np.zeros((1, 1, 1), bool)
    for formula, weight in steps if rows_first else steps[::-1]:
        exact = np.einsum(formula, weight, expected)
        # A sum within float noise of a half may round either way, and so may all that it enters.
        touched = np.einsum(formula, (weight != 0).astype(float), unsure * np.ones_like(expected))
        unsure = (touched > 0) | (np.abs(exact % 1 - 0.5) < 1e-10)
        expected = np.clip(np.floor(exact + 0.5), 0, 255)
    actual = imresize(image, height, width)
    assert actual.dtype == np.uint8
    assert actual.shape == (height, width, image.shape[2])
    assert np.array_equal(actual[~unsure], expected[~unsure])
    assert np.all(np.abs(actual - expected) <= 3)


@given(st.integers(0, 255), st.integers(1, 30), st.integers(1, 30), st.integers(1, 90))
@settings(max_examples=50, deadline=None)
def test_constant_stays_constant(level: int, rows: int, columns: int, resized: int) -> None:
    image = np.full((rows, columns, 3), level, np.uint8)
    assert np.all(imresize(image, resized, resized + 1) == level)


def test_same_size_is_the_identity() -> None:
    image = np.random.default_rng(0).integers(0, 256, (17, 33, 3), np.uint8)
    assert np.array_equal(imresize(image, 17, 33), image)


@pytest.mark.parametrize("rate", [2, 3, 4, 5])
def test_shrunk_ramp_has_the_closed_form(rate: int) -> None:
    """Keys' kernel reproduces a ramp; away from the border a block shrinks to its centre."""
    ramp = (2 * np.arange(12 * rate) + 3).astype(np.uint8)
    shrunk = downscale(np.tile(ramp[None, :, None], (2 * rate, 1, 3)), rate)[0, :, 0]
    expected = 2 * (np.arange(12) * rate) + (rate - 1) + 3
    assert np.array_equal(shrunk[2:-2], expected[2:-2])


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_enlarged_ramp_has_the_closed_form(rate: int) -> None:
    ramp = (2 * rate * np.arange(20)).astype(np.uint8)
    enlarged = upscale(np.tile(ramp[:, None, None], (1, 4, 3)), rate)[:, 0, 0]
    expected = 2 * np.arange(20 * rate) + 1 - rate
    assert np.array_equal(enlarged[2 * rate : -2 * rate], expected[2 * rate : -2 * rate])


def test_overshoot_is_clipped() -> None:
    edge = np.repeat(np.uint8([0, 255]), 8)[None, :, None]
    enlarged = upscale(edge, 4)
    assert enlarged.min() == 0
    assert enlarged.max() == 255


def test_takes_views_and_leaves_them_alone() -> None:
    image = np.random.default_rng(1).integers(0, 256, (24, 36, 3), np.uint8)
    view, before = image[::2, ::-1, ::-1], image.copy()
    assert np.array_equal(upscale(view, 2), upscale(view.copy(), 2))
    assert np.array_equal(image, before)


def test_crop_to_multiple() -> None:
    image = np.arange(7 * 10 * 3).astype(np.uint8).reshape(7, 10, 3)
    assert np.array_equal(crop_to_multiple(image, 3), image[:6, :9])
    with pytest.raises(ImageError, match="smaller than the rate"):
        crop_to_multiple(image, 8)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_refuses_what_is_no_image(image: np.ndarray) -> None:
    for resize in (
        lambda: imresize(image, 2, 2),
        lambda: downscale(image, 2),
        lambda: upscale(image, 2),
    ):
        with pytest.raises(ImageError, match="uint8 image"):
            resize()


def test_refuses_bad_sizes() -> None:
    image = np.zeros((6, 7, 3), np.uint8)
    with pytest.raises(ImageError, match="0 rows"):
        imresize(image, 0, 5)
    with pytest.raises(ImageError, match="cannot be shrunk exactly 3 times"):
        downscale(image, 3)
    for refuse in (downscale, upscale, crop_to_multiple):
        with pytest.raises(ImageError, match="not positive"):
            refuse(image, 0)
