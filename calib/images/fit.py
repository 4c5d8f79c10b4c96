"""What the steps of pre-processing make of any image, told without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib.images.process_ops import CenterCrop, Pad, ProcessOp, Resize, ToTensor

Array: TypeAlias = NDArray[Any]


def channels(ops: Sequence[ProcessOp]) -> int:
    """How many channels `ops` make of an image, whatever its size.

    Raises:
        ProcessOpError: a step fits no image that can reach it.
    """
    pixel: Array = np.zeros((1, 1, 3), np.uint8)
    size: tuple[int, int] | None = None  # of every image, where a Resize or CenterCrop tells it
    for op in ops:
        match op:
            case Resize():
                pixel = op.model_copy(update={"size": (1, 1)}).apply(pixel)
                size = None if op.size[1] == -1 else op.size
            case CenterCrop():
                if size:
                    op.apply(np.broadcast_to(pixel, (*size, pixel.shape[2])))
                size = op.crop_size
            case Pad():
                size = (max(size), max(size)) if size and op.pad_to_square else size
            case ToTensor():
                pixel = pixel.astype(np.float32)
            case _:
                pixel = op.apply(pixel)
    return int(pixel.shape[2])
