"""The places where int8 and fp32 differ most, cut out for people to look at."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from calib.qparams import F32
from compiler.scaling import Image, Rgb, to_uint8

SIDE = 192  # pixels of a crop
MOST = 6  # crops kept of a set of images
_OF_AN_IMAGE = 2


@dataclass(frozen=True, eq=False)
class Answers:
    """What every competitor makes of one image: [H, W, C] on the scale of [0, 255].

    Attributes:
        x: the network's input, float32 [1, C, h, w].
        y: the library's raw answer to it, float32 [1, C, H', W'].
        border: pixels of each side that are not scored.
        with_y: whether luma is scored too.
    """

    name: str
    x: F32
    y: F32
    truth: Image
    fp32: Image
    int8: Image
    bicubic: Image
    border: int
    with_y: bool


@dataclass(frozen=True, eq=False)
class Crop:
    """One place of one image, uint8 [h, w, C] each.

    Attributes:
        difference: root mean square of int8 - fp32 in it, on the scale of [0, 255].
    """

    image: str
    top: int
    left: int
    difference: float
    truth: Rgb
    fp32: Rgb
    int8: Rgb
    bicubic: Rgb


def worst(crops: tuple[Crop, ...], answers: Answers) -> tuple[Crop, ...]:
    """The crops of greatest difference so far, with those of one more image; greatest first."""
    found = [*crops, *_of_image(answers)]
    return tuple(sorted(found, key=lambda crop: -crop.difference)[:MOST])


def _of_image(answers: Answers) -> list[Crop]:
    """Its worst places, which do not overlap; none where nothing differs."""
    shown = [_shown(a) for a in (answers.truth, answers.fp32, answers.int8, answers.bicubic)]
    gap = cv2.absdiff(shown[1], shown[2]).reshape(shown[1].shape)
    squares = np.zeros(gap.shape[:2], np.float32)
    for channel in np.moveaxis(gap, 2, 0):  # one at a time: a frame in float32 is large
        squares += np.square(channel, dtype=np.float32) / np.float32(len(gap[0, 0]))
    height, width = (min(SIDE, side) for side in squares.shape)
    crops = []
    for _ in range(_OF_AN_IMAGE):
        means = cv2.boxFilter(squares, -1, (width, height), anchor=(0, 0))
        means = means[: squares.shape[0] - height + 1, : squares.shape[1] - width + 1]
        top, left = (int(i) for i in np.unravel_index(int(means.argmax()), means.shape))
        if means[top, left] <= 0:
            break
        place = (slice(top, top + height), slice(left, left + width))
        difference = float(np.sqrt(means[top, left]))
        crops.append(Crop(answers.name, top, left, difference, *(s[place].copy() for s in shown)))
        squares[place] = 0
    return crops


def _shown(image: Image) -> Rgb:
    return to_uint8(image.astype(np.float32)) if image.dtype != np.uint8 else image.astype(np.uint8)
