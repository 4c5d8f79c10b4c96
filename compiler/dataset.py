"""Named images, read one at a time: calibration sets, and the sample photographs behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import DataError
from calib.images import list_images, read_image, read_npz
from compiler.data import Pair
from compiler.data import samples as shipped_samples
from compiler.schema import Dataset
from compiler.store import file_sha256

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """One image [H, W, 3] that is read when it is needed; `name` is unique in its set."""

    name: str
    source: Path | Pair  # of a pair, its LR image

    def read(self) -> Rgb:
        """The pixels, RGB.

        Raises:
            ImageError: missing, truncated, or not an image.
        """
        if isinstance(self.source, Pair):
            return self.source.read_lr()
        return (read_npz if self.source.suffix.lower() == ".npz" else read_image)(self.source)

    def identity(self) -> tuple[str, int]:
        """Digest of the file, without decoding it, and by how much it is reduced."""
        if isinstance(self.source, Pair):
            return file_sha256(self.source.hr), self.source.rate
        return file_sha256(self.source), 1


@dataclass(frozen=True)
class PhotoSet:
    """Photos in name order and where they come from, for reports."""

    photos: tuple[Photo, ...]
    source: str
    warnings: tuple[str, ...] = ()


def calibration_set(dataset: Dataset, rate: int) -> PhotoSet:
    """The first `get_data_num` files of `path` in name order, or the sample photographs.

    Args:
        rate: scale of the network. The samples are reduced by it: a network that is calibrated on
            photographs smoother than the LR images it will meet loses their detail.
    Raises:
        DataError: the folder is absent (and no fallback is named) or has no such image.
    """
    wanted = dataset.sampler.get_data_num
    folder = Path(dataset.path) if dataset.path else None
    if folder is not None and (folder.is_dir() or dataset.fallback is None):
        paths = list_images(folder, dataset.sampler.suffix, wanted)
        photos = tuple(Photo(p.name, p) for p in paths)
        return PhotoSet(photos, str(folder), _too_few(len(photos), wanted))
    if dataset.fallback is None:
        raise DataError(
            "dataset.path is missing",
            where="dataset",
            fix="name a folder of images, or write `fallback: samples`",
        )
    samples = shipped_samples("calibration")[:wanted]
    photos = tuple(Photo(s.name, Pair(Path(s.name).stem, s.path, None, rate)) for s in samples)
    where = f"{folder} is absent" if folder else "no path is given"
    loud = f"calibrating on {len(photos)} SAMPLE photographs of scikit-image: {where}"
    return PhotoSet(photos, "samples", (loud, *_too_few(len(photos), wanted)))


def _too_few(found: int, wanted: int) -> tuple[str, ...]:
    return (f"get_data_num asks for {wanted} images, there are {found}",) if found < wanted else ()
