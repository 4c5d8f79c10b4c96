from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.bicubic import downscale
from calib.errors import DataError, ImageError
from models.patches import HELD_OUT, batch, drawn_pairs, pair, photographs, shrunk_pairs
from models.synthetic import draw


def ramp_pair(rate: int) -> object:
    """Every LR pixel differs from every other, so a patch tells where it was cut."""
    lr = np.arange(40 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 40, 3)
    source = pair(np.zeros((40 * rate, 40 * rate, 3), np.uint8), rate)
    return type(source)(lr, lr.repeat(rate, axis=0).repeat(rate, axis=1))


@given(st.sampled_from([2, 3, 4]), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_patches_are_aligned_whatever_the_turn(rate: int, seed: int, step: int) -> None:
    lr, hr = batch([ramp_pair(rate)], np.ones(1), seed, step, 5, 8)
    assert lr.shape == (5, 8, 8, 3)
    assert np.array_equal(hr, lr.repeat(rate, axis=1).repeat(rate, axis=2))


def test_patches_depend_on_seed_and_step_alone() -> None:
    source, one = [ramp_pair(2)], np.ones(1)
    first = batch(source, one, 7, 3, 4, 8)[0]
    assert np.array_equal(first, batch(source, one, 7, 3, 4, 8)[0])
    assert not np.array_equal(first, batch(source, one, 7, 4, 4, 8)[0])
    assert not np.array_equal(first, batch(source, one, 8, 3, 4, 8)[0])


def test_stretched_patches_reach_from_black_to_white() -> None:
    hr = np.random.default_rng(0).integers(90, 140, (60, 60, 3), np.uint8)
    source, flat = pair(hr, 3), pair(np.full((60, 60, 3), 77, np.uint8), 3)
    lr, wide = batch([source], np.ones(1), 0, 0, 4, 8, 0.999)
    assert (wide.min(), wide.max()) == (0, 255)
    same, plain = batch([source], np.ones(1), 0, 0, 4, 8)
    slope = np.polyfit(same.ravel().astype(float), lr.ravel().astype(float), 1)[0]
    assert slope == pytest.approx(np.ptp(wide[0]) / np.ptp(plain[0]), rel=0.05)
    assert np.all(batch([flat], np.ones(1), 0, 0, 4, 8, 0.999)[1] == 77)


def test_share_decides_which_images_are_drawn_from() -> None:
    dark, bright = (pair(np.full((60, 60, 3), v, np.uint8), 3) for v in (0, 200))
    lr, _ = batch([dark, bright], np.array([0.0, 1.0]), 0, 0, 6, 8)
    assert np.all(lr == 200)


def test_pairs_of_a_photograph(tmp_path: Path) -> None:
    image = draw(np.random.default_rng(5), 121, 187)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    whole, half = shrunk_pairs(tmp_path / "a.png", 3, [1, 2])
    assert np.array_equal(whole.hr, image[:120, :186])
    assert half.hr.shape == (60, 90, 3)
    assert np.array_equal(half.lr, downscale(half.hr, 3))


def test_photographs_keeps_the_held_out_apart(tmp_path: Path) -> None:
    for name in (f"{HELD_OUT[0]}.jpg", "b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_text("")
    training, held_out = photographs(tmp_path)
    assert [p.name for p in training] == ["a.png", "b.JPG"]
    assert [p.name for p in held_out] == [f"{HELD_OUT[0]}.jpg"]
    held_out[0].unlink()
    assert [[p.name for p in part] for part in photographs(tmp_path)] == [["a.png"], ["b.JPG"]]


def test_refuses_folders_without_photographs(tmp_path: Path) -> None:
    (tmp_path / f"{HELD_OUT[1]}.jpg").write_text("")
    with pytest.raises(DataError, match="no photographs but"):
        photographs(tmp_path)
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ImageError, match="image"):
        shrunk_pairs(tmp_path / "a.png", 3, [2])


def test_drawn_images_vary_and_repeat() -> None:
    first, second = drawn_pairs(0, 2, 2, side=48)
    assert not np.array_equal(first.hr, second.hr)
    assert np.array_equal(first.hr, drawn_pairs(0, 1, 2, side=48)[0].hr)
    assert first.hr.std() > 20
