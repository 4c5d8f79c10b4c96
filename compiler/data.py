"""Pictures to calibrate and to verify on: sample photographs, and pairs of LR and HR images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import skimage
from numpy.typing import NDArray

from calib.images import read_image

Rgb: TypeAlias = NDArray[np.uint8]
Half: TypeAlias = Literal["calibration", "verification"]

SAMPLES: Final[dict[Half, tuple[str, ...]]] = {
    "calibration": (
        "chelsea.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
    ),
    "verification": ("astronaut.png", "coffee.png", "retina.jpg", "rocket.jpg"),
}
"""The colour photographs inside scikit-image's wheel, split by name.

The two motorcycle images show one scene from two sides, so they stay in one half. Both halves
have everyday and scientific photographs; calibration has those with the widest range of values
(deep black, specular highlights, the sharpest detail).
"""


@dataclass(frozen=True)
class Sample:
    """One photograph that scikit-image ships; `name` is its file name."""

    name: str

    def read(self) -> Rgb:
        """Read it as uint8 [H, W, 3] RGB, without any network access.

        Raises:
            ImageError: the installed scikit-image lacks the file.
        """
        return read_image(Path(skimage.__file__).parent / "data" / self.name)


def samples(half: Half) -> tuple[Sample, ...]:
    """List the sample photographs of one half in name order; the halves share no scene."""
    return tuple(Sample(name) for name in SAMPLES[half])
