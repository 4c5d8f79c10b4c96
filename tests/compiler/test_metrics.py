"""compiler.metrics against scikit-image, scipy and closed forms."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from calib.errors import DataError, ImageError
from compiler.metrics import (
    Fid,
    bootstrap_ci95,
    fid,
    frechet_distance,
    patch_features,
    psnr_db,
    rgb_to_y,
    ssim,
)

SHARED = Path(__file__).parents[2].parent / "shared"
C1 = (0.01 * 255) ** 2


def photo(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 2) if min(shape[:2]) > 9 else noise


def skimage_ssim(a: np.ndarray, b: np.ndarray) -> float:
    _, full = structural_similarity(
        a.astype(np.float64),
        b.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2 if a.ndim == 3 else None,
        full=True,
    )
    return float(full[5:-5, 5:-5].mean())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(11, 150),
    st.integers(11, 300),
    st.sampled_from([(), (1,), (3,)]),
    st.sampled_from([np.uint8, np.float32, np.float64]),
    st.integers(0, 2**31),
)
def test_agrees_with_scikit_image(
    height: int, width: int, channels: tuple[int, ...], dtype: type, seed: int
) -> None:
    a = photo((height, width, *channels), seed).reshape(height, width, *channels)
    noise = np.random.default_rng(seed).normal(0, 9, a.shape)
    b = np.clip(a + noise, 0, 255).astype(dtype)
    assert ssim(a, b) == pytest.approx(skimage_ssim(a, b), abs=1e-12)
    expected = peak_signal_noise_ratio(a.astype(float), b.astype(float), data_range=255)
    assert psnr_db(a, b) == pytest.approx(expected, abs=1e-10)


def test_hard_cases_for_the_arithmetic() -> None:
    """Flat areas far apart, where the variance is the difference of two large numbers."""
    halves = np.zeros((140, 280, 3), np.uint8)
    halves[:, 140:] = 255
    checks = np.kron(np.indices((14, 28)).sum(0) % 2 * 100 + 155, np.ones((10, 10)))
    checks = np.repeat(checks[..., None], 3, axis=2)
    for a, b in [(halves, checks), (halves, 255 - halves), (checks, np.full_like(checks, 255))]:
        assert ssim(a, b) == pytest.approx(skimage_ssim(a, b), abs=1e-10)


@given(st.integers(0, 255), st.integers(0, 255))
def test_constant_images(u: int, v: int) -> None:
    a, b = np.full((12, 13, 3), u, np.uint8), np.full((12, 13, 3), v, np.float32)
    assert ssim(a, b) == pytest.approx((2 * u * v + C1) / (u * u + v * v + C1), abs=1e-9)
    expected = math.inf if u == v else 20 * math.log10(255 / abs(u - v))
    assert psnr_db(a, b) == pytest.approx(expected)


def test_equal_images_and_a_single_step() -> None:
    a = photo((80, 300, 3))
    assert ssim(a, a) == 1.0
    assert ssim(a, a.astype(np.float64)) == 1.0
    assert psnr_db(a, a) == math.inf
    b = a.copy()
    b[40, 150, 1] ^= 1
    assert psnr_db(a, b) == pytest.approx(10 * math.log10(255**2 * a.size))
    assert ssim(a, b) < 1


def test_float_values_are_not_rounded() -> None:
    a = np.full((20, 20), 100, np.uint8)
    assert psnr_db(a, a + np.float32(0.25)) == pytest.approx(20 * math.log10(255 / 0.25))


def test_the_border_is_cropped() -> None:
    a, b = photo((60, 70, 3), 1), photo((60, 70, 3), 2)
    inside = np.s_[3:-3, 3:-3]
    assert psnr_db(a, b, border=3) == psnr_db(a[inside], b[inside])
    assert ssim(a, b, border=3) == ssim(a[inside], b[inside])
    frame = b.copy()
    frame[inside] = a[inside]
    assert psnr_db(a, frame, border=3) == math.inf


def test_what_cannot_be_measured() -> None:
    a = photo((16, 30, 3))
    with pytest.raises(ImageError, match="10 x 24 pixels is smaller than the SSIM window"):
        ssim(a, a, border=3)
    with pytest.raises(ImageError, match="nothing is left of 16 x 30"):
        psnr_db(a, a, border=8)
    with pytest.raises(ValueError, match="different shapes"):
        psnr_db(a, a[:-1])


def test_the_result_does_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = photo((300, 600, 3), 1), photo((300, 600, 3), 2)
    expected = ssim(a, b), psnr_db(a, b)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(5))
    assert (ssim(a, b), psnr_db(a, b)) == expected


def test_luma_is_bt_601() -> None:
    rgb = photo((20, 30, 3))
    np.testing.assert_allclose(rgb_to_y(rgb), rgb2ycbcr(rgb)[..., 0], atol=1e-10)
    np.testing.assert_allclose(rgb_to_y(np.array([[[0, 0, 0], [255, 255, 255]]])), [[16, 235]])
    assert rgb_to_y(rgb.astype(np.float32)).dtype == np.float64


def covariance(rng: np.random.Generator, d: int, samples: int) -> np.ndarray:
    return np.cov(rng.normal(size=(samples, d)) * rng.uniform(0.1, 3, d), rowvar=False)


@pytest.mark.parametrize("d", [2, 16, 64])
def test_frechet_distance_by_the_matrix_square_root(d: int) -> None:
    rng = np.random.default_rng(d)
    a, b = covariance(rng, d, 3 * d), covariance(rng, d, 3 * d)
    ma, mb = rng.normal(size=d), rng.normal(size=d)
    expected = ((ma - mb) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(ma, a, mb, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_in_closed_form() -> None:
    variance_a, variance_b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.0])
    zero = np.zeros(3)
    expected = ((np.sqrt(variance_a) - np.sqrt(variance_b)) ** 2).sum()
    distance = frechet_distance(zero, np.diag(variance_a), zero, np.diag(variance_b))
    assert distance == pytest.approx(expected)
    singular = covariance(np.random.default_rng(0), 20, 8)  # rank 7
    mean = np.ones(20)
    assert frechet_distance(mean, singular, mean, singular) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(mean, singular, mean + 2, singular) == pytest.approx(80, abs=1e-6)


def test_fid_counts_patches_and_refuses_few() -> None:
    images = [photo((40, 70, 3), seed) for seed in range(3)]

    def features(patch: np.ndarray) -> np.ndarray:
        assert patch.shape == (16, 16, 3)
        return patch.reshape(-1, 3).mean(axis=0)[None]

    vectors = np.concatenate([patch_features(image, features, 16) for image in images])
    assert vectors.shape == (3 * 2 * 4, 3)
    np.testing.assert_allclose(vectors[5], images[0][16:32, 16:32].reshape(-1, 3).mean(axis=0))
    with pytest.raises(DataError, match="FID from 24 patches is no reliable figure"):
        fid(vectors, vectors)
    shifted = vectors + np.array([3, 4, 0])
    result = fid(vectors, shifted, allow_few=True)
    assert result == Fid(result.value, 24, reliable=False)
    assert result.value == pytest.approx(25)
    with pytest.raises(DataError, match="FID from 0 patches"):
        fid(patch_features(images[0], features, 299), vectors, allow_few=True)


def test_fid_is_reliable_from_2048_patches() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2048, 4)), rng.normal(size=(2048, 4))
    result = fid(a, b)
    assert (result.patches, result.reliable) == (2048, True)
    assert 0 <= result.value < 0.1
    with pytest.raises(DataError, match="2047"):
        fid(a, b[:-1])


def test_bootstrap_interval() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0.1, 0.02, 100)
    lo, hi = bootstrap_ci95(values.tolist(), seed=7)
    standard_error = values.std() / 10
    assert lo == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert hi == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.1 * standard_error)
    assert bootstrap_ci95(values.tolist(), seed=7) == (lo, hi)
    assert bootstrap_ci95(values.tolist(), seed=8) != (lo, hi)
    assert bootstrap_ci95([0.25], seed=0) == (0.25, 0.25)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_ci95([], seed=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
def test_a_real_image_against_its_bicubic() -> None:
    hr = cv2.imread(str(SHARED / "data/set5/HR/butterfly.png"))
    hr = hr[: hr.shape[0] // 3 * 3, : hr.shape[1] // 3 * 3]
    lr = cv2.resize(hr, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
    up = cv2.resize(lr.astype(np.float32), hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert ssim(hr, up) == pytest.approx(skimage_ssim(hr, up), abs=1e-12)
