"""The vendor's fused pre-processing operator that does what the steps of a spec do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from calib.errors import ProcessOpError
from calib.images import (
    CenterCrop,
    ChannelSplit,
    CvtColor,
    DecodeImage,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
)
from compiler.network import Size

_COLOURS: Final = {"COLOR_RGB2BGR": "RGB2BGR", "COLOR_BGR2RGB": "BGR2RGB"}
_RESIZES: Final = {
    (False, "nearest"): "NEAREST",
    (False, "bilinear"): "BILINEAR_CV",
    (False, "bicubic"): "BICUBIC",
    (False, "lanczos"): "LANCZOS_CV",
    (True, "bilinear"): "BILINEAR_PILLOW",
    (True, "bicubic"): "BICUBIC_PILLOW",
    (True, "lanczos"): "LANCZOS_PILLOW",
    (True, "box"): "BOX_PILLOW",
    (True, "hamming"): "HAMMING_PILLOW",
}


def params(ops: Sequence[ProcessOp], size: Size) -> dict[str, Any]:
    """The vendor's fused pre-processing operator that does what `ops` do.

    Args:
        size: height and width of the network's input.
    Returns:
        OpType and OpConfig; Mean and Std are rounded to binary16, as the operator stores them.
    Raises:
        ProcessOpError: the operator has no counterpart for a step, or for their order.
    """
    resize, crop, pad, colour, normalize = _fused(ops)
    before_crop = resize.size if crop and resize else size
    kind = "RGB_LETTERBOX" if pad else "RGB_RESIZE" if resize else "RGB"
    config: dict[str, Any] = {
        "IimageFormat": "RGB_PLANAR",
        "IimageWidth": before_crop[1],
        "IimageHeight": before_crop[0],
        "OimageWidth": size[1],
        "OimageHeight": size[0],
    }
    if crop and resize:
        config |= {
            "CropX": round((resize.size[1] - crop.crop_size[1]) / 2),
            "CropY": round((resize.size[0] - crop.crop_size[0]) / 2),
            "ResizeWidth": resize.size[1],
            "ResizeHeight": resize.size[0],
        }
    mean, std = normalize.mean or (0.0,), normalize.std or (1.0,)
    config |= {
        "IimageWidthPitch": before_crop[1],
        "IimageHeightPitch": before_crop[0],
        "Mean": _halves(mean),
        "Std": _halves(std),
        "NormaType": _norm_type(normalize),
        "ColorCvtCode": _COLOURS[colour.code] if colour else "NO_CHANGE",
    }
    if resize:
        config["ResizeType"] = _RESIZES[(resize.backend == "pillow", resize.interpolation)]
    name = f"FUSION_OP_{kind}_CVTCOLOR{'_CROP' if crop else ''}_NORM_TENSOR"
    return {"OpType": name, "OpConfig": config}


_Fused = tuple[Resize | None, CenterCrop | None, Pad | None, CvtColor | None, Normalize]


def _fused(ops: Sequence[ProcessOp]) -> _Fused:
    """The steps that the fused operator has, at most one of each, in the order of its name."""
    kinds = (Resize, CenterCrop, Pad, CvtColor, Normalize)
    found: dict[type, Any] = {}
    for op in ops:
        _require_counterpart(op)
        if isinstance(op, kinds):
            if type(op) in found:
                raise _unmatched(f"a second {op.type}")
            if Normalize in found:
                raise _unmatched(f"{op.type} after Normalize")
            found[type(op)] = op
    resize, crop, pad, colour, normalize = (found.get(kind) for kind in kinds)
    order = [type(op) for op in ops if isinstance(op, Resize | CenterCrop | Pad)]
    letterbox = [Resize, Pad] if resize and resize.size[1] == -1 else None
    if order not in ([], [Resize], [Resize, CenterCrop], letterbox):
        raise _unmatched(" then ".join(kind.__name__ for kind in order))
    if resize and resize.size[1] == -1 and not pad:
        raise _unmatched("Resize to [n, -1] without Pad")
    return resize, crop, pad, colour, normalize or Normalize(div255=False)


def _require_counterpart(op: ProcessOp) -> None:
    match op:
        case ChannelSplit() | DecodeImage(cv2_flags=0):
            raise _unmatched("one channel")
        case CvtColor() if op.code not in _COLOURS:
            raise _unmatched(op.code)
        case Resize() if (op.backend == "pillow", op.interpolation) not in _RESIZES:
            raise _unmatched(f"interpolation {op.interpolation} of {op.backend}")
        case Pad(pad_to_square=False):
            raise _unmatched("Pad without pad_to_square")


def _unmatched(what: str) -> ProcessOpError:
    return ProcessOpError(
        f"the vendor's fused pre-processing operators have no counterpart of {what}",
        where="dataset.process_ops",
        fix="pre-process in the application, or change the steps",
    )


def _norm_type(op: Normalize) -> str:
    if op.mean is None:
        return "DIV255" if op.div255 else "EQUAL"
    return "DIV255_MINUSMEAN_DIVSTD" if op.div255 else "MINUSMEAN_DIVSTD"


def _halves(values: Sequence[float]) -> list[float]:
    """Three values in binary16."""
    three = values if len(values) == 3 else [values[0]] * 3
    return [float(np.float16(value)) for value in three]
