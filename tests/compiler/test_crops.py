"""Crops against an exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import crops
from compiler.crops import SIDE, Answers, Crop


def answers(gap: np.ndarray, name: str = "a", dtype: type = np.uint8) -> Answers:
    """fp32 is flat, int8 is `gap` above it."""
    flat = np.full((*gap.shape, 3), 100, dtype)
    x = np.zeros((1, 3, 1, 1), np.float32)
    int8 = (flat + gap[..., None]).astype(dtype)
    return Answers(name, x, x, flat, flat, int8, flat, border=0, with_y=False)


def test_the_window_of_greatest_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    gap = rng.integers(0, 9, (SIDE + 7, SIDE + 11))
    first = crops.worst((), answers(gap))[0]
    means = {
        (top, left): float(np.mean(gap[top : top + SIDE, left : left + SIDE] ** 2.0))
        for top in range(8)
        for left in range(12)
    }
    best = max(means.values())
    assert first.difference == pytest.approx(np.sqrt(best), rel=1e-5)
    assert means[(first.top, first.left)] == pytest.approx(best, rel=1e-5)
    place = (slice(first.top, first.top + SIDE), slice(first.left, first.left + SIDE))
    np.testing.assert_array_equal(first.int8[..., 0], 100 + gap[place])
    assert first.truth.shape == (SIDE, SIDE, 3)


def test_crops_of_one_image_do_not_overlap() -> None:
    gap = np.zeros((SIDE, 2 * SIDE + 50), int)
    gap[:, :20], gap[:, -20:] = 3, 2
    one, two = crops.worst((), answers(gap))
    assert one.difference > two.difference
    assert abs(one.left - two.left) >= SIDE


def test_the_worst_are_kept_greatest_first() -> None:
    kept: tuple[Crop, ...] = ()
    for level in (3, 9, 1, 7, 5, 2, 8, 4):
        kept = crops.worst(kept, answers(np.full((8, 8), level), f"image {level}"))
    assert [c.difference for c in kept] == [9, 8, 7, 5, 4, 3]
    assert kept[0].image == "image 9"


def test_equal_answers_have_no_crop() -> None:
    assert crops.worst((), answers(np.zeros((8, 8), int))) == ()


def test_small_and_unrounded_images() -> None:
    (crop,) = crops.worst((), answers(np.full((5, 3), 2.4), dtype=np.float32))
    assert crop.int8.shape == (5, 3, 3)
    assert crop.int8.dtype == np.uint8
    assert crop.int8.max() == 102
