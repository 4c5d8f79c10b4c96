"""Images in NumPy archives, as the vendor's calibration data sets have them: uint8, channels first.

One file holds one image: an array `input_0` (or any other single name), uint8 [C, H, W] or
[1, C, H, W] with 1 or 3 channels in RGB order.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import ImageError
from calib.images.files import MAX_PIXELS, Uint8, read_bytes

_MAX_BYTES = 3 * MAX_PIXELS + 4096


def read_npz(path: Path) -> Uint8:
    """Read one image as uint8 [H, W, 3] RGB; grey is tripled.

    Raises:
        ImageError: missing, damaged, not one uint8 image, or too large.
    """
    data = read_bytes(path)
    try:
        array = _only_array(data, path)
    except ImageError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise whatever damaged bytes lead to
        raise _unfit(path, "is damaged, or no NumPy archive") from error
    shape = array.shape[1:] if array.ndim == 4 and array.shape[0] == 1 else array.shape
    if array.dtype != np.uint8 or len(shape) != 3 or shape[0] not in (1, 3) or 0 in shape:
        raise _unfit(path, f"holds {array.dtype} {list(array.shape)}")
    chw = np.broadcast_to(array.reshape(shape), (3, *shape[1:]))
    return np.ascontiguousarray(chw.transpose(1, 2, 0))


def _only_array(data: bytes, path: Path) -> NDArray[Any]:
    """The array of an archive that has one; nothing is unpickled."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
            raise _unfit(path, f"is larger than {MAX_PIXELS} pixels")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = list(arrays)
        if len(names) != 1:
            raise _unfit(path, f"holds {len(names)} arrays ({', '.join(names)[:200]})")
        array = arrays[names[0]]
    if not isinstance(array, np.ndarray):
        raise _unfit(path, f"holds {names[0][:200]!r}, which is no array")
    return array


def write_npz(path: Path, rgb: Uint8) -> None:
    """Write uint8 [H, W, 3] RGB as `input_0`, uint8 [3, H, W]."""
    with path.open("wb") as file:
        np.savez_compressed(file, input_0=np.ascontiguousarray(rgb.transpose(2, 0, 1)))


def _unfit(path: Path, what: str) -> ImageError:
    return ImageError(
        f"the archive {what}; calibration takes one uint8 image [C, H, W]",
        where=str(path),
        fix="write it with np.savez(file, input_0=image), or name a folder of image files",
    )
