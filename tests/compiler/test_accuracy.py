from __future__ import annotations

import numpy as np
import pytest

from compiler import accuracy
from compiler.accuracy import Accuracy, BitExactness, ImageAccuracy, Scores, Verdict
from compiler.schema import Gate
from tests.compiler.conftest import photograph


def scores(psnr: float, ssim: float = 0.9) -> Scores:
    return Scores(psnr, psnr + 1, ssim, ssim)


def image(fp32: float, int8: float, bicubic: float, name: str = "a") -> ImageAccuracy:
    return ImageAccuracy(name, scores(fp32), scores(int8, 0.88), scores(bicubic))


IMAGES = (image(30, 29.5, 29), image(32, 31.9, 31, "b"))


@pytest.mark.parametrize(
    ("gate", "reasons"),
    [
        (Gate(), 0),
        (Gate(psnr_drop_db=0.31), 0),
        (Gate(psnr_drop_db=0.29), 1),
        (Gate(ssim_drop=0.01), 1),
        (Gate(psnr_drop_db=0.0, ssim_drop=0.0, above_bicubic=True), 2),
    ],
)
def test_gates(gate: Gate, reasons: int) -> None:
    verdict = accuracy.judge(IMAGES, gate, "standard")
    assert len(verdict.reasons) == reasons
    assert verdict.passed == (reasons == 0)


def test_above_bicubic_gates_under_standard_only() -> None:
    below = (image(30, 28, 29),)
    gate = Gate(above_bicubic=True)
    assert not accuracy.judge(below, gate, "standard").passed
    assert accuracy.judge(below, gate, "vendor").passed


def test_a_gate_that_asks_nothing_is_told_from_one_that_holds() -> None:
    above = Gate(above_bicubic=True)
    assert not accuracy.judge(IMAGES, Gate(), "standard").checked
    assert not accuracy.judge(IMAGES, above, "vendor").checked
    assert accuracy.judge(IMAGES, above, "standard").checked
    assert accuracy.judge(IMAGES, Gate(ssim_drop=1.0), "vendor").checked


def test_nan_never_passes_a_gate() -> None:
    broken = (image(30, float("nan"), 29),)
    assert not accuracy.judge(broken, Gate(psnr_drop_db=1.0), "standard").passed


def test_json_has_the_documented_shape() -> None:
    result = Accuracy(
        "standard", "set", 1, IMAGES, BitExactness(True, 2, 99), Verdict(True, ()), seed=0
    )
    report = result.to_json()
    assert list(report) == [
        "protocol",
        "images",
        "excluded",
        "dataset",
        "fp32",
        "int8",
        "bicubic",
        "drop",
        "drop_ci95",
        "bit_exact",
        "gate",
    ]
    assert report["drop"]["psnr_db"]["rgb"] == pytest.approx(0.3)
    assert report["fp32"]["psnr_db"] == {"rgb": 31, "y": 32}
    low, high = report["drop_ci95"]["psnr_db"]["rgb"]
    assert 0.1 <= low <= 0.3 <= high <= 0.5
    assert report["gate"] == {"passed": True, "reasons": []}
    header, first, second = result.to_csv().splitlines()
    assert header.startswith("image,fp32_psnr_rgb_db")
    assert (first[0], second[0]) == ("a", "b")


def test_y_is_null_where_it_is_not_measured() -> None:
    truth = photograph(0, 24, 30)
    noisy = np.clip(truth.astype(int) + 3, 0, 255).astype(np.uint8)
    with_y = accuracy.score(truth, noisy, 2, with_y=True)
    without = accuracy.score(truth, noisy, 2, with_y=False)
    grey = accuracy.score(truth[..., :1], noisy[..., :1], 2, with_y=True)
    assert with_y.psnr_y_db is not None
    assert without.psnr_y_db is None
    assert grey.psnr_y_db is None
    assert without.psnr_rgb_db == with_y.psnr_rgb_db
