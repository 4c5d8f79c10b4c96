"""The pixels that recovery learns from: a bounded, seeded sample of the calibration images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from calib.images import ProcessOp, apply_ops, digest
from calib.qparams import F32
from compiler.dataset import Photo

PIXELS = 2**19  # of all images together
TILE = 128
_MANY = 32  # images that need no harder companions
_BARS = 8
_SMALLEST = 32  # pixels a side of a companion
T = TypeVar("T")
_Span = tuple[np.float32, np.float32]  # the least and the greatest value of all tiles


@dataclass(frozen=True, eq=False)
class Samples:
    """Network inputs, float32 [1, C, h, w] each, in the order of their images' digests.

    Attributes:
        threads: how many tiles are worked on at once; no result depends on it.
    """

    tiles: tuple[F32, ...]
    threads: int = 1

    def each(self, f: Callable[[int, F32], T], *, at_once: int | None = None) -> Iterator[T]:
        """f(number, tile) of every tile, in their order: a sum over them has the same bits always.

        At most a few results wait to be asked for.

        Args:
            at_once: most tiles at a time, where their memory sets a limit.
        """
        workers = self.threads if at_once is None else max(1, min(self.threads, at_once))
        if workers == 1:
            yield from map(f, range(len(self.tiles)), self.tiles)
            return
        waiting: deque[Future[T]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for i, tile in enumerate(self.tiles):
                waiting.append(pool.submit(f, i, tile))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def sample(
    photos: Sequence[Photo],
    ops: Sequence[ProcessOp],
    *,
    seed: int,
    threads: int = 1,
    pixels: int = PIXELS,
) -> Samples:
    """Whole images while they are small, else square tiles at random places.

    Each image gives at most pixels / len(photos) pixels, but one tile at least. The places depend
    on the seed and the image's digest alone, the order on the digests alone; a few images get
    `_harder` companions, which come after all others, and grey bars come last.

    Args:
        ops: pre-processing of each image, uint8 [H, W, 3] to float32 [C, H, W].
    """
    budget = max(pixels // max(len(photos), 1), TILE * TILE)
    by_digest: dict[str, list[F32]] = {}
    for photo in photos:
        image = photo.read()
        key = digest(image)
        if key not in by_digest:
            rng = np.random.default_rng([seed, int(key[:16], 16)])
            by_digest[key] = list(_tiles(apply_ops(ops, image), budget, rng))
    tiles = [tile for key in sorted(by_digest) for tile in by_digest[key]]
    span = min(t.min() for t in tiles), max(t.max() for t in tiles)
    harder = _harder(tiles, span) if len(by_digest) < _MANY else ()
    return Samples((*tiles, *harder, _wedge(tiles[0].shape[1], span)), threads)


def _harder(tiles: Sequence[F32], span: _Span) -> Iterator[F32]:
    """Some tiles once more, every other pixel of them, stretched to the range that all span.

    A few calibration photographs, enlarged to the network's size perhaps, have neither the contrast
    nor the sharpness of what the network will meet, and what they do not show would be clipped.
    Many have both: companions of 108 images would widen the thresholds by 40 % and cost 0.02 dB.
    """
    low, high = span
    for tile in tiles:
        sharp = tile[:, :, ::2, ::2]
        dark, bright = sharp.min(), sharp.max()
        if bright > dark and min(sharp.shape[2:]) >= _SMALLEST:
            yield np.ascontiguousarray((sharp - dark) * ((high - low) / (bright - dark)) + low)


def _wedge(channels: int, span: _Span) -> F32:
    """Grey bars from the darkest value of all to the brightest, above the same the other way round.

    Any image may have white areas; where the photographs have none, nothing else shows what a
    threshold does to them.
    """
    bars = np.linspace(*span, _BARS, dtype=np.float32).repeat(TILE // _BARS)
    wedge = np.stack([bars, bars[::-1]]).repeat(TILE // 2, axis=0)
    return np.ascontiguousarray(np.broadcast_to(wedge, (1, channels, TILE, TILE)))


def _tiles(x: F32, budget: int, rng: np.random.Generator) -> Iterator[F32]:
    height, width = x.shape[1:]
    if height * width <= budget:
        yield x[None]
        return
    rows, cols = min(height, TILE), min(width, TILE)
    for _ in range(max(1, budget // (rows * cols))):
        top = int(rng.integers(height - rows + 1))
        left = int(rng.integers(width - cols + 1))
        yield np.ascontiguousarray(x[None, :, top : top + rows, left : left + cols])
