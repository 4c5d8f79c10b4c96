"""What a list of pre-processing steps makes of an image, and of a single byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib.images.process_ops import (
    Array,
    CenterCrop,
    ChannelSplit,
    CvtColor,
    DecodeImage,
    Float32,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
    ToTensor,
)


def apply_ops(ops: Sequence[ProcessOp], image: NDArray[np.uint8]) -> Float32:
    """Pre-process uint8 [H, W, 3] RGB, as `read_image` gives it, into float32 [C, H, W].

    The layout changes once, at the end, whether `ToTensor` stands there, earlier (a step after it
    means what it means before it, on float32 values) or is missing.

    Raises:
        ProcessOpError: a step does not fit the image that reaches it.
    """
    x: Array = image
    for op in ops:
        x = x.astype(np.float32) if isinstance(op, ToTensor) else op.apply(x)
    return ToTensor().apply(x)


def pointwise_table(ops: Sequence[ProcessOp], channels: int) -> Float32 | None:
    """Tabulate what `ops` make of an 8-bit value: float32 [channels, 256], exact.

    For an image whose size fits already, ``apply_ops(ops, image)[c] == table[c][image[..., c]]``,
    and where `Resize`, `CenterCrop` and `Pad` act, the same holds of the 8-bit image after them.

    Returns:
        None where the values are no function of one channel's 8-bit value: colours are mixed,
        swapped or dropped (`CvtColor`, `ChannelSplit`, grey decoding), or an image is resized or
        padded after it became float.
    """
    x: Array = _ramp(channels)
    for op in ops:
        match op:
            case CvtColor() | ChannelSplit() | DecodeImage(cv2_flags=0):
                return None
            case Resize() | Pad() if x.dtype != np.uint8:
                return None
            case Normalize():
                x = op.apply(x)
            case ToTensor():
                x = x.astype(np.float32)
    return np.ascontiguousarray(x[0].T, dtype=np.float32)


def byte_values(ops: Sequence[ProcessOp]) -> Float32 | None:
    """Tabulate the values that `ops` can give: float32 [channels, 256], those of every 8-bit value.

    Unlike `pointwise_table` it does not tell which pixel has which: while an image is 8-bit, its
    colours may be mixed and dropped at will, since 8-bit values come of it again.

    Returns:
        None where colours are mixed, or an image is resized or padded, after it became float.
    """
    x: Array = _ramp(3)
    for op in ops:
        match op:
            case CenterCrop():
                pass
            case Resize() | Pad() | DecodeImage(cv2_flags=0) | CvtColor(code="COLOR_RGB2YCrCb"):
                if x.dtype != np.uint8:
                    return None
                if isinstance(op, DecodeImage):
                    x = _ramp(1)
            case ToTensor():
                x = x.astype(np.float32)
            case _:
                x = op.apply(x)
    return np.ascontiguousarray(x[0].T, dtype=np.float32)


def _ramp(channels: int) -> Array:
    """Every 8-bit value in every channel: uint8 [1, 256, channels]."""
    return np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], channels, axis=2)


def warnings(ops: Sequence[ProcessOp]) -> tuple[str, ...]:
    """Say what in `ops` is legal but probably not meant, one sentence each."""
    found = []
    before: ProcessOp | None = None
    for op in ops:
        match op:
            case CvtColor(code="COLOR_BGR2RGB") if isinstance(before, DecodeImage):
                found.append(
                    "CvtColor COLOR_BGR2RGB right after DecodeImage gives BGR: "
                    "DecodeImage yields RGB already"
                )
            case Resize(size=(_, other), adaptive_side=str(side)) if other != -1:
                found.append(
                    f"Resize: adaptive_side {side} has no effect, both sides of size are given"
                )
            case Normalize(mean=None) if not {"norm_type", "mean"} & op.model_fields_set:
                found.append("Normalize without mean, std and norm_type is taken as norm_type null")
            case Normalize(mean=tuple()) if "norm_type" in op.model_fields_set:
                found.append("Normalize: norm_type null, yet mean and std are given and applied")
        before = op
    return tuple(found)
