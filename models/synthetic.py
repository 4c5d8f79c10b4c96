"""Drawn images: the sharp edges, thin lines, patterns and lettering that few photographs show."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_OVERSAMPLING = 4
_LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;!?&%+-")


def draw(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Draws overlapping polygons, ellipses, gratings, strokes and words in random colours.

    Drawn four times too large and averaged down, so edges fall between pixels as in a photograph.

    Returns:
        uint8 [height, width, 3].
    """
    canvas = np.empty((_OVERSAMPLING * height, _OVERSAMPLING * width, 3), np.uint8)
    canvas[:] = _gradient(rng, *canvas.shape[:2])
    shapes = [_polygon, _ellipse, _grating, _strokes, _word]
    for _ in range(int(rng.integers(40, 90))):
        shapes[rng.integers(len(shapes))](rng, canvas)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Half of the colours are greys: most edges in pictures are edges of luminance."""
    if rng.random() < 0.5:
        grey = int(rng.integers(256))
        return grey, grey, grey
    red, green, blue = rng.integers(256, size=3)
    return int(red), int(green), int(blue)


def _point(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> tuple[int, int]:
    return int(rng.integers(canvas.shape[1])), int(rng.integers(canvas.shape[0]))


def _size(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> int:
    """Log-uniform between 1/60 and 1/3 of the canvas: many small shapes, few large ones."""
    return int(min(canvas.shape[:2]) * np.exp(rng.uniform(np.log(1 / 60), np.log(1 / 3))))


def _gradient(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    corners = rng.integers(256, size=(2, 2, 3)).astype(np.float32)
    smooth = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(smooth.round(), np.uint8)


def _polygon(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> None:
    radius = _size(rng, canvas)
    corners = rng.integers(-radius, radius + 1, size=(int(rng.integers(3, 7)), 2))
    hull = cv2.convexHull((corners + _point(rng, canvas)).astype(np.int32))
    cv2.fillPoly(canvas, [hull], _colour(rng))


def _ellipse(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> None:
    axes = (_size(rng, canvas), _size(rng, canvas))
    outline = -1 if rng.random() < 0.5 else int(rng.integers(2, 40))
    cv2.ellipse(
        canvas, _point(rng, canvas), axes, rng.uniform(0, 180), 0, 360, _colour(rng), outline
    )


def _grating(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> None:
    """Parallel bars at any angle within a disc, as on fences, facades and zebras."""
    radius, centre = _size(rng, canvas), _point(rng, canvas)
    x0, y0 = (max(c - radius, 0) for c in centre)
    window = canvas[y0 : centre[1] + radius, x0 : centre[0] + radius]
    rows, columns = np.ogrid[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]]
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 80)
    phase = (rows * np.sin(angle) + columns * np.cos(angle)) / period % 1
    inside = (rows - centre[1]) ** 2 + (columns - centre[0]) ** 2 < radius**2
    duty = rng.uniform(0.2, 0.8)
    window[inside & (phase < duty)] = _colour(rng)
    window[inside & (phase >= duty)] = _colour(rng)


def _strokes(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> None:
    radius = _size(rng, canvas)
    points = rng.integers(-radius, radius + 1, size=(int(rng.integers(2, 8)), 1, 2))
    path = (points + _point(rng, canvas)).astype(np.int32)
    cv2.polylines(canvas, [path], bool(rng.random() < 0.3), _colour(rng), int(rng.integers(2, 24)))


def _word(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> None:
    text = "".join(rng.choice(_LETTERS, size=int(rng.integers(2, 14))))
    font = [cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX]
    scale = rng.uniform(1, 6)
    thickness = int(rng.integers(2, 3 + int(3 * scale)))
    cv2.putText(
        canvas, text, _point(rng, canvas), font[rng.integers(3)], scale, _colour(rng), thickness
    )
