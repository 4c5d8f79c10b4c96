"""The images of a training run, and aligned low- and high-resolution patches of them.

The patches are a pure function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.bicubic import crop_to_multiple, downscale, imresize
from calib.errors import DataError
from calib.images import list_images, read_image
from models.recipe import Recipe
from models.synthetic import draw

_LEAST_CONTRAST = 24  # levels between the darkest and the brightest value of a patch
# Never trained on: they choose between recipes, and stay unseen for whoever measures later.
HELD_OUT = ("canyon-wren", "piazza-gae-aulenti", "roman-colosseum", "tea-gardens")


@dataclass(frozen=True)
class Pair:
    """A ground truth uint8 [rH, rW, 3] in RGB, and what bicubic leaves of it, uint8 [H, W, 3]."""

    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """Pairs to train on with the probability of each, and ground truths to watch the training."""

    pairs: list[Pair]
    share: NDArray[np.float64]
    held_out: list[NDArray[np.uint8]]


def load_images(folder: Path, recipe: Recipe) -> Images:
    """Reads, shrinks and draws everything the run will need.

    Raises:
        DataError: as `photographs`; or an image is smaller than a patch.
        ImageError: a file is no image.
    """
    training, held_out = photographs(folder)
    real = [p for path in training for p in shrunk_pairs(path, recipe.rate, recipe.factors)]
    drawn = drawn_pairs(recipe.seed, recipe.drawn if recipe.synthetic else 0, recipe.rate)
    smallest = min(min(p.lr.shape[:2]) for p in real + drawn)
    if smallest < recipe.size:
        raise DataError(
            f"a reduced image is only {smallest} pixels high or wide, a patch is {recipe.size}",
            where=str(folder),
            fix="use larger photographs, smaller --factors or a smaller --size",
        )
    share = np.repeat(
        [(1 - recipe.synthetic) / len(real), recipe.synthetic / max(len(drawn), 1)],
        [len(real), len(drawn)],
    )
    watched = [p.hr for path in held_out for p in shrunk_pairs(path, recipe.rate, [3])]
    return Images(real + drawn, share, watched)


def photographs(folder: Path) -> tuple[list[Path], list[Path]]:
    """Photographs of a folder in name order: those to train on, and those to hold out.

    Held out are those of `HELD_OUT`, or the last one of a folder that has none of these.

    Raises:
        DataError: the folder is missing, or leaves nothing to train on.
    """
    paths = list_images(folder, None, None)
    held_out = [path for path in paths if path.stem in HELD_OUT] or [paths[-1]]
    training = [path for path in paths if path not in held_out]
    if not training:
        raise DataError(
            f"holds no photographs but {', '.join(p.name for p in held_out)}, to be held out",
            where=str(folder),
            fix="name a folder of large photographs with --data",
        )
    return training, held_out


def shrunk_pairs(path: Path, rate: int, factors: Iterable[float]) -> list[Pair]:
    """One pair for each factor by which the photograph is shrunk first, to bury its JPEG artefacts.

    Raises:
        ImageError: the file is no image.
    """
    photograph = read_image(path)
    height, width = photograph.shape[:2]
    return [
        pair(imresize(photograph, round(height / factor), round(width / factor)), rate)
        for factor in factors
    ]


def drawn_pairs(seed: int, count: int, rate: int, side: int = 480) -> list[Pair]:
    """`count` synthetic pairs with a square ground truth of about `side` pixels."""
    return [pair(draw(np.random.default_rng([seed, i]), side, side), rate) for i in range(count)]


def pair(image: NDArray[np.uint8], rate: int) -> Pair:
    """Pairs an image with its MATLAB-style bicubic reduction; sides cut to a multiple of 2*rate."""
    hr = np.ascontiguousarray(crop_to_multiple(image, 2 * rate))
    return Pair(downscale(hr, rate), hr)


def batch(
    pairs: Sequence[Pair],
    share: NDArray[np.float64],
    seed: int,
    step: int,
    count: int,
    size: int,
    stretched: float = 0.0,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draws the patches of one training step.

    Args:
        pairs: the images.
        share: probability of each pair, sum 1.
        seed: of the run.
        step: the patches are a function of (seed, step), so a resumed run needs no generator state.
        count: N, the number of patches.
        size: side of an LR patch.
        stretched: share of the patches whose contrast is stretched to the whole range of a byte.

    Returns:
        LR uint8 [N, size, size, 3] and HR uint8 [N, r*size, r*size, 3], flipped and turned alike.
    """
    rng = np.random.default_rng([seed, step])
    patches = [_patch(rng, pairs[i], size) for i in rng.choice(len(pairs), count, p=share)]
    wide = rng.random(count) < stretched
    patches = [_stretched(p) if w else p for p, w in zip(patches, wide, strict=True)]
    return np.stack([p.lr for p in patches]), np.stack([p.hr for p in patches])


def _patch(rng: np.random.Generator, source: Pair, size: int) -> Pair:
    rate = source.hr.shape[0] // source.lr.shape[0]
    top, left = (int(rng.integers(side - size + 1)) for side in source.lr.shape[:2])
    lr = source.lr[top : top + size, left : left + size]
    hr = source.hr[rate * top : rate * (top + size), rate * left : rate * (left + size)]
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    return Pair(_turn(lr, turns, mirrored), _turn(hr, turns, mirrored))


def _stretched(patch: Pair) -> Pair:
    """The same map of bytes on both, such that the ground truth reaches from 0 to 255.

    A patch of little contrast stays as it is: its noise alone would be stretched.
    """
    low, high = int(patch.hr.min()), int(patch.hr.max())
    if high - low < _LEAST_CONTRAST:
        return patch
    levels = (np.arange(256) - low) * (255 / (high - low))
    table = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
    return Pair(table[patch.lr], table[patch.hr])


def _turn(image: NDArray[np.uint8], turns: int, mirrored: bool) -> NDArray[np.uint8]:
    image = np.rot90(image, turns)
    return image[:, ::-1] if mirrored else image
