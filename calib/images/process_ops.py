"""The pre-processing steps (`process_ops`) of a spec: what each means, exactly.

The steps carry the names, keys and conventions of the MMClassification transforms that the
vendor's compiler took them from. Each is a frozen, strict model (unknown keys are refused) with
`apply`, which maps an image [H, W, C] to an image; images are uint8 until `Normalize` or
`ToTensor` makes them float32.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from calib.errors import ProcessOpError
from calib.images.files import MAX_PIXELS

Array: TypeAlias = NDArray[Any]
Float32: TypeAlias = NDArray[np.float32]

_MAX_SIDE: Final = 16384

_CV2_INTERPOLATION: Final = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_PILLOW_INTERPOLATION: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


def _pair(value: object) -> object:
    """Read n as [n, n], and a YAML list as a tuple."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


def _vector(value: object) -> object:
    """Read a number as a vector of one, and a YAML list as a tuple."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Backend: TypeAlias = Literal["opencv", "cv2", "pillow"]
Side: TypeAlias = Annotated[int, Field(ge=1, le=_MAX_SIDE)]
Vector: TypeAlias = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
    BeforeValidator(_vector),
    Field(min_length=1, max_length=4),
]


class _Op(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class DecodeImage(_Op):
    """Read the file as 8-bit RGB (`read_image`), whichever `backend` is named.

    OpenCV and Pillow decode to the same pixels. `cv2_flags` 1 (IMREAD_COLOR, the default) gives
    three channels; 0 (IMREAD_GRAYSCALE) gives one, y = 0.299 r + 0.587 g + 0.114 b rounded, as
    `cv2.cvtColor` computes it from the decoded colours.
    """

    type: Literal["DecodeImage"] = "DecodeImage"
    backend: Backend = "opencv"
    cv2_flags: Literal[0, 1] = 1

    def apply(self, image: Array) -> Array:
        """Pass uint8 [H, W, 3] RGB on, or turn it grey: uint8 [H, W, 1]."""
        if self.cv2_flags == 1 or image.shape[2] == 1:
            return image
        return _hwc(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


class Resize(_Op):
    """Resample to `size`: [height, width], or n for [n, n]; the aspect ratio is not kept.

    [n, -1] keeps it: the side that `adaptive_side` names (short, the default, long, height or
    width) becomes n, the other one truncates n * other / side. The result has the dtype of the
    input, so 8-bit images are rounded to 8 bits. Backend opencv: `cv2.resize`, without
    antialiasing; pillow: `Image.resize`, antialiased.
    """

    type: Literal["Resize"] = "Resize"
    size: Annotated[tuple[Side, Side | Literal[-1]], BeforeValidator(_pair)]
    interpolation: Literal[
        "nearest", "bilinear", "bicubic", "area", "lanczos", "box", "hamming"
    ] = "bilinear"
    backend: Backend = "opencv"
    adaptive_side: Literal["short", "long", "height", "width"] | None = None

    @model_validator(mode="after")
    def _known_interpolation(self) -> Resize:
        known = _PILLOW_INTERPOLATION if self.backend == "pillow" else _CV2_INTERPOLATION
        if self.interpolation not in known:
            raise ValueError(
                f"backend {self.backend} has no interpolation {self.interpolation}; "
                f"it has {', '.join(known)}"
            )
        return self

    def apply(self, image: Array) -> Array:
        """Resample [H, W, C], C <= 4, to [h, w, C]."""
        height, width = self._target(*image.shape[:2])
        _refuse_size("Resize", image, height, width)
        if self.backend != "pillow":
            code = _CV2_INTERPOLATION[self.interpolation]
            return _hwc(cv2.resize(image, (width, height), interpolation=code))
        if image.dtype != np.uint8:
            raise ProcessOpError(
                "Resize with backend pillow takes 8-bit images, not float ones",
                fix="put it before Normalize and ToTensor, or use backend opencv",
            )
        source = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        resample = _PILLOW_INTERPOLATION[self.interpolation]
        return _hwc(np.asarray(source.resize((width, height), resample)))

    def _target(self, height: int, width: int) -> tuple[int, int]:
        target, other = self.size
        if other != -1:
            return target, other
        match self.adaptive_side or "short":
            case "width":
                by_width = True
            case "height":
                by_width = False
            case "short":
                by_width = width < height
            case _:
                by_width = width > height
        if by_width:
            return target * height // width, target
        return target, target * width // height


class CenterCrop(_Op):
    """Cut `crop_size` ([height, width] or n) out of the middle, on whole pixels.

    Half the margin, where it is not whole, is rounded half to even (as torchvision does);
    `backend` changes nothing.
    """

    type: Literal["CenterCrop"] = "CenterCrop"
    crop_size: Annotated[tuple[Side, Side], BeforeValidator(_pair)]
    backend: Backend = "opencv"

    def apply(self, image: Array) -> Array:
        """Cut [H, W, C] to [h, w, C]; ProcessOpError where the image is smaller than that."""
        height, width = image.shape[:2]
        h, w = self.crop_size
        if h > height or w > width:
            raise ProcessOpError(
                f"CenterCrop to {h} x {w} of an image of {height} x {width}",
                fix="put a large enough Resize before CenterCrop, or lower crop_size",
            )
        top, left = round((height - h) / 2), round((width - w) / 2)
        return image[top : top + h, left : left + w]


class Pad(_Op):
    """Extend the shorter side with zeros, at the bottom or the right, until they are equal."""

    type: Literal["Pad"] = "Pad"
    pad_to_square: bool

    def apply(self, image: Array) -> Array:
        """Pad [H, W, C] to [S, S, C], S = max(H, W), if `pad_to_square`."""
        if not self.pad_to_square:
            return image
        height, width = image.shape[:2]
        side = max(height, width)
        _refuse_size("Pad", image, side, side)
        return np.pad(image, ((0, side - height), (0, side - width), (0, 0)))


class CvtColor(_Op):
    """Convert colours as `cv2.cvtColor` with `code` does, on whatever channels it is given."""

    type: Literal["CvtColor"] = "CvtColor"
    code: Literal["COLOR_RGB2BGR", "COLOR_BGR2RGB", "COLOR_RGB2YCrCb"]

    def apply(self, image: Array) -> Array:
        """Map [H, W, 3] to [H, W, 3]."""
        if image.shape[2] != 3:
            raise ProcessOpError(
                f"CvtColor {self.code} takes 3 channels, got {image.shape[2]}",
                fix="remove the step, or put it before ChannelSplit",
            )
        return _hwc(cv2.cvtColor(np.ascontiguousarray(image), getattr(cv2, self.code)))


class ChannelSplit(_Op):
    """Keep the channel `index` alone."""

    type: Literal["ChannelSplit"] = "ChannelSplit"
    index: Annotated[int, Field(ge=0, le=3)]

    def apply(self, image: Array) -> Array:
        """Map [H, W, C] to [H, W, 1]."""
        if self.index >= image.shape[2]:
            raise ProcessOpError(
                f"ChannelSplit takes channel {self.index} of {image.shape[2]}",
                fix=f"give an index below {image.shape[2]}",
            )
        return image[..., self.index : self.index + 1]


class Normalize(_Op):
    """Scale pixel values in float32: x / 255 if `div255`, then (x - mean) / std if given.

    `norm_type: null` (or the string None) is the vendor's word for "without mean and std".
    `div255` is true unless it is set, so mean and std are on the scale of [0, 1]; with
    `div255: false` they are on the scale of [0, 255], and without mean and std nothing changes.
    Every operation is rounded to float32 once; division is true division.
    """

    type: Literal["Normalize"] = "Normalize"
    mean: Vector | None = None
    std: Vector | None = None
    norm_type: Literal["None"] | None = None
    div255: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Normalize:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or neither")
        if self.std is not None and any(s == 0 or np.float32(s) == 0 for s in self.std):
            raise ValueError("std must not be zero")
        return self

    def apply(self, image: Array) -> Array:
        """Map [H, W, C] of any dtype to float32 [H, W, C]."""
        x = image.astype(np.float32)
        if self.div255:
            x /= np.float32(255)
        if self.mean is not None and self.std is not None:
            x = (x - self._per_channel(self.mean, x)) / self._per_channel(self.std, x)
        return x

    @staticmethod
    def _per_channel(values: tuple[float, ...], image: Array) -> Float32:
        if len(values) not in (1, image.shape[2]):
            raise ProcessOpError(
                f"Normalize has {len(values)} values for {image.shape[2]} channels",
                fix="give one value, or one a channel",
            )
        return np.asarray(values, np.float32)


class ToTensor(_Op):
    """Lay [H, W, C] out as float32 [C, H, W]; values and the order of channels stay."""

    type: Literal["ToTensor"] = "ToTensor"

    def apply(self, image: Array) -> Array:
        """Map [H, W, C] of any dtype to float32 [C, H, W], contiguous."""
        return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)


ProcessOp: TypeAlias = Annotated[
    DecodeImage | Resize | CenterCrop | Pad | CvtColor | ChannelSplit | Normalize | ToTensor,
    Field(discriminator="type"),
]
"""Any one step, told apart by its `type`: a field type for the spec."""

OPERATORS: Final[dict[str, type[BaseModel]]] = {
    op.__name__: op
    for op in (DecodeImage, Resize, CenterCrop, Pad, CvtColor, ChannelSplit, Normalize, ToTensor)
}
"""Every step by its `type`."""


def _refuse_size(step: str, image: Array, height: int, width: int) -> None:
    """No step makes an empty image, or more pixels than an image may have that is read."""
    sides, found = (height, width), " x ".join(map(str, image.shape[:2]))
    if min(sides) < 1 or max(sides) > _MAX_SIDE or height * width > MAX_PIXELS:
        raise ProcessOpError(
            f"{step} would make {height} x {width} of an image of {found}",
            fix=f"use images, or give Resize both sides, that make at most {MAX_PIXELS} pixels, "
            f"with sides between 1 and {_MAX_SIDE}",
        )


def _hwc(image: Array) -> Array:
    """Give back the channel axis that cv2 and Pillow drop from one-channel images."""
    return image[..., None] if image.ndim == 2 else image
