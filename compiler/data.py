"""Pictures to calibrate and to verify on: sample photographs, and pairs of LR and HR images.

    python -m compiler.data [--from DIR_OR_ZIP ...] [--out data/DIV2K]

puts DIV2K's validation images where the specs look for them (see `compiler.div2k`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import skimage
from numpy.typing import NDArray

from calib.bicubic import crop_to_multiple, downscale
from calib.errors import DataError
from calib.images import list_images, read_image, read_size

Rgb: TypeAlias = NDArray[np.uint8]
Half: TypeAlias = Literal["calibration", "verification"]

SAMPLES: Final[dict[Half, tuple[str, ...]]] = {
    "calibration": (
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
    ),
    "verification": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
}
"""The colour photographs inside scikit-image's wheel, split by name.

The two motorcycle images show one scene from two sides, so they stay in one half. Verification has
the everyday photographs, what super-resolution is for. Calibration has that sharp scene and the
scientific images, which have the widest range of values: deep black, saturated colours, noise.
"""

_AUTHORS_PICK: Final = (
    *(801, 802, 806, 808, 809, 811, 814, 815, 816, 819, 820, 821, 824, 825, 828, 829),
    *(831, 832, 834, 837, 838, 839, 840, 841, 842, 843, 845, 849, 850, 853, 856, 859),
    *(861, 862, 864, 868, 871, 872, 873, 874, 876, 882, 884, 885, 886, 887, 888, 889),
)
SUBSET_48: Final = tuple(f"{number:04}" for number in _AUTHORS_PICK)
"""The 48 images of DIV2K's validation set that the authors of Bicubic++ measure on."""


@dataclass(frozen=True)
class Sample:
    """One photograph that scikit-image ships; `name` is its file name."""

    name: str

    @property
    def path(self) -> Path:
        """Its file in scikit-image's installation."""
        return Path(skimage.__file__).parent / "data" / self.name

    def read(self) -> Rgb:
        """Read it as uint8 [H, W, 3] RGB, without any network access.

        Raises:
            ImageError: the installed scikit-image lacks the file.
        """
        return read_image(self.path)


def samples(half: Half) -> tuple[Sample, ...]:
    """List the sample photographs of one half in name order; the halves share no scene."""
    return tuple(Sample(name) for name in SAMPLES[half])


@dataclass(frozen=True)
class Pair:
    """A ground truth and the low-resolution image made from it; `name` is the truth's stem.

    Where `lr` is None, LR is MATLAB's bicubic reduction of the ground truth.
    """

    name: str
    hr: Path
    lr: Path | None
    rate: int

    def read_hr(self) -> Rgb:
        """The ground truth, cropped to a multiple of `rate`: uint8 [rH, rW, 3] RGB."""
        return crop_to_multiple(read_image(self.hr), self.rate)

    def read_lr(self) -> Rgb:
        """The low-resolution image: uint8 [H, W, 3] RGB; grey is tripled, as everywhere."""
        return downscale(self.read_hr(), self.rate) if self.lr is None else read_image(self.lr)

    def read(self) -> tuple[Rgb, Rgb]:
        """LR and HR; the ground truth is decoded once.

        Raises:
            ImageError: a file is damaged, or smaller than `rate`.
        """
        hr = self.read_hr()
        return (downscale(hr, self.rate) if self.lr is None else read_image(self.lr)), hr


def pair(
    lr: Path | None, hr: Path, rate: int, subset: Iterable[str] | None = None
) -> tuple[Pair, ...]:
    """Pair the images of two folders by name, in the order of the ground truths' names.

    The partner of ``0801.png`` is ``0801x3.*`` at rate 3 (as DIV2K and Set5 name it) or
    ``0801.*``.

    Args:
        lr: folder of low-resolution images, or None to make them from the ground truths.
        hr: folder of ground truths.
        rate: scale between them; HR is cropped to a multiple of it.
        subset: stems of the ground truths to take (such as `SUBSET_48`); None takes all.

    Raises:
        DataError: a folder is missing or empty; or images lack a partner, differ in size, are
            not there though `subset` names them: all of them are listed.
        ImageError: a file is no image.
    """
    truths = _by_stem(list_images(hr, None, None), hr)
    chosen = sorted(truths) if subset is None else sorted(set(subset))
    _refuse(hr, {"not there": [stem for stem in chosen if stem not in truths]})
    if lr is None:
        return tuple(Pair(stem, truths[stem], None, rate) for stem in chosen)
    partners = _by_stem(list_images(lr, None, None), lr, f"x{rate}", truths)
    lonely = [path.name for stem, path in partners.items() if stem not in truths]
    _refuse(
        lr,
        {
            f"no x{rate} partner for": [truths[s].name for s in chosen if s not in partners],
            "no ground truth for": lonely if subset is None else [],
        },
    )
    pairs = tuple(Pair(stem, truths[stem], partners[stem], rate) for stem in chosen)
    _refuse(lr, {f"not 1/{rate} of the ground truth": filter(None, map(_misfit, pairs))})
    return pairs


def sample_pairs(rate: int) -> tuple[Pair, ...]:
    """Pair the sample photographs for verification with their bicubic reductions."""
    return tuple(Pair(Path(s.name).stem, s.path, None, rate) for s in samples("verification"))


def _by_stem(
    paths: Iterable[Path], folder: Path, ending: str = "", truths: Collection[str] = ()
) -> dict[str, Path]:
    """Files by the stem of their ground truth: without `ending`, but for names found in `truths`.

    Raises:
        DataError: two files have one stem.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        short = path.stem.removesuffix(ending)
        exact = path.stem in truths and short not in truths
        found.setdefault(path.stem if exact else short, []).append(path)
    double = [path.name for paths in found.values() if len(paths) > 1 for path in paths]
    _refuse(folder, {"more than one file for one image": double})
    return {stem: paths[0] for stem, paths in found.items()}


def _misfit(pair: Pair) -> str | None:
    """Describe a pair whose sizes do not fit; None where they do."""
    assert pair.lr is not None
    (height, width), actual = read_size(pair.hr), read_size(pair.lr)
    expected = height // pair.rate, width // pair.rate
    if actual == expected:
        return None
    return f"{pair.lr.name} ({actual[0]}x{actual[1]} for {expected[0]}x{expected[1]})"


def _refuse(folder: Path, faults: dict[str, Iterable[str]]) -> None:
    """Raise DataError with all the names under each kind of fault, if there are any."""
    listed = {fault: ", ".join(sorted(names)) for fault, names in faults.items()}
    told = "; ".join(f"{fault}: {names}" for fault, names in listed.items() if names)
    if told:
        raise DataError(
            told,
            where=str(folder),
            fix="complete the folder, or take away what does not belong to the set",
        )


if __name__ == "__main__":
    from compiler import cli, div2k

    cli.main(div2k.parser(), div2k.run)
