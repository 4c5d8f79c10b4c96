"""Accuracy of a build: scores of each image, their means, the drop, and the gate."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from statistics import fmean
from typing import Any

from compiler.crops import Crop
from compiler.metrics import bootstrap_ci95, psnr_db, rgb_to_y, ssim
from compiler.scaling import Image
from compiler.schema import Gate, Protocol

COMPETITORS = ("fp32", "int8", "bicubic")


@dataclass(frozen=True)
class Scores:
    """PSNR in dB and SSIM of one image against the ground truth; Y is None where not measured.

    The scores called `rgb` are over all channels, which may be a single grey one.
    """

    psnr_rgb_db: float
    psnr_y_db: float | None
    ssim_rgb: float
    ssim_y: float | None


METRICS = tuple(score.name for score in fields(Scores))


@dataclass(frozen=True)
class ImageAccuracy:
    """Scores of all competitors on one image."""

    name: str
    fp32: Scores
    int8: Scores
    bicubic: Scores


@dataclass(frozen=True)
class BitExactness:
    """Comparison of the library with the golden model: images, and values compared."""

    equal: bool
    images: int
    values: int


@dataclass(frozen=True)
class Verdict:
    """Whether the gate holds, and each way in which it does not.

    Attributes:
        checked: whether the spec asks for anything.
    """

    passed: bool
    reasons: tuple[str, ...]
    checked: bool = True


@dataclass(frozen=True)
class Accuracy:
    """What `verify` found.

    Attributes:
        excluded: images left out because the build was calibrated on them.
        dataset: where the images come from.
        seed: of the bootstrap.
        channels: of the images: 3 for RGB, 1 for grey ones or for luma alone.
        crops: where int8 and fp32 differ most, for people to look at.
    """

    protocol: Protocol
    dataset: str
    excluded: int
    images: tuple[ImageAccuracy, ...]
    bit_exact: BitExactness
    gate: Verdict
    seed: int
    channels: int = 3
    crops: tuple[Crop, ...] = field(default=(), repr=False, compare=False)

    @property
    def colours(self) -> str:
        """What the scores are taken over."""
        return "RGB" if self.channels == 3 else "grey"

    @property
    def metrics(self) -> tuple[tuple[str, str, int], ...]:
        """Title, attribute of `Scores` and digits of each metric that was measured."""
        known = (
            (f"PSNR {self.colours}", "psnr_rgb_db", 3),
            ("PSNR Y", "psnr_y_db", 3),
            (f"SSIM {self.colours}", "ssim_rgb", 4),
            ("SSIM Y", "ssim_y", 4),
        )
        return tuple(m for m in known if self.mean("fp32", m[1]) is not None)

    def mean(self, competitor: str, metric: str) -> float | None:
        """Mean of one score over the images; None where it was not measured."""
        return _mean([getattr(getattr(i, competitor), metric) for i in self.images])

    def drops(self, metric: str) -> list[float]:
        """fp32 - int8, image by image."""
        pairs = [(getattr(i.fp32, metric), getattr(i.int8, metric)) for i in self.images]
        return [fp32 - int8 for fp32, int8 in pairs if fp32 is not None and int8 is not None]

    def drop(self, metric: str) -> float | None:
        """Mean of the per-image differences fp32 - int8."""
        return _mean(self.drops(metric))

    def to_json(self) -> dict[str, Any]:
        """The object of accuracy.json."""
        ci = {
            metric: list(bootstrap_ci95(self.drops(metric), self.seed))
            if self.drops(metric)
            else None
            for metric in METRICS
        }
        means = {name: _nested(partial(self.mean, name)) for name in COMPETITORS}
        return {
            "protocol": self.protocol,
            "images": len(self.images),
            "excluded": self.excluded,
            "dataset": self.dataset,
            **means,
            "drop": _nested(self.drop),
            "drop_ci95": _nested(ci.__getitem__),
            "bit_exact": asdict(self.bit_exact),
            "gate": {"passed": self.gate.passed, "reasons": list(self.gate.reasons)},
        }

    def to_csv(self) -> str:
        """One row an image: the scores of all competitors."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["image", *(f"{c}_{m}" for c in COMPETITORS for m in METRICS)])
        for image in self.images:
            scores = [getattr(getattr(image, c), m) for c in COMPETITORS for m in METRICS]
            writer.writerow([image.name, *("" if s is None else f"{s:.6f}" for s in scores)])
        return out.getvalue()


def score(truth: Image, image: Image, border: int, *, with_y: bool) -> Scores:
    """Scores of one image.

    Args:
        truth, image: [H, W, C] on the scale of [0, 255].
        border: pixels cropped from each side.
        with_y: also measure luma (RGB images only).
    """
    psnr_y = ssim_y = None
    if with_y and truth.shape[2] == 3:
        luma_truth, luma = rgb_to_y(truth), rgb_to_y(image)
        psnr_y, ssim_y = psnr_db(luma_truth, luma, border), ssim(luma_truth, luma, border)
    return Scores(psnr_db(truth, image, border), psnr_y, ssim(truth, image, border), ssim_y)


def judge(images: Sequence[ImageAccuracy], gate: Gate, protocol: Protocol) -> Verdict:
    """Checks means over all channels; `above_bicubic` counts under `standard` only."""
    psnr_drop = fmean(i.fp32.psnr_rgb_db - i.int8.psnr_rgb_db for i in images)
    ssim_drop = fmean(i.fp32.ssim_rgb - i.int8.ssim_rgb for i in images)
    gain = fmean(i.int8.psnr_rgb_db - i.bicubic.psnr_rgb_db for i in images)
    above_bicubic = gate.above_bicubic and protocol == "standard"
    reasons = []
    if gate.psnr_drop_db is not None and not psnr_drop <= gate.psnr_drop_db:
        reasons.append(f"PSNR drops by {psnr_drop:.3f} dB, more than {gate.psnr_drop_db:g} dB")
    if gate.ssim_drop is not None and not ssim_drop <= gate.ssim_drop:
        reasons.append(f"SSIM drops by {ssim_drop:.4f}, more than {gate.ssim_drop:g}")
    if above_bicubic and not gain > 0:
        reasons.append(f"int8 is {-gain:.3f} dB below plain bicubic")
    checked = above_bicubic or (gate.psnr_drop_db, gate.ssim_drop) != (None, None)
    return Verdict(not reasons, tuple(reasons), checked)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def _nested(value: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    return {
        "psnr_db": {"rgb": value("psnr_rgb_db"), "y": value("psnr_y_db")},
        "ssim": {"rgb": value("ssim_rgb"), "y": value("ssim_y")},
    }
