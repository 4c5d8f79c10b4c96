"""Which kernel computes a conv: the fastest of those that are proved exact for its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from calib.qparams import QParams
from compiler.accumulators import accumulator_bounds
from compiler.kernels import depthwise
from compiler.kernels.algebra import POINTS, TAPS, Proof, Transform, prove, transform
from compiler.kernels.blocks import word_elements
from compiler.kernels.direct import direct
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.kernel import Kernel
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Read, Stage
from compiler.kernels.winograd import winograd
from compiler.network import Conv, Size

# Neighbouring tiles computed together, by lanes. Measured: more of them only push V and the
# half-transformed outputs out of the first-level cache; with 16 lanes a register block holds 4.
TILES = {4: 8, 8: 8, 16: 4}
SMALLEST_SCALE = 2.0**-100  # below it, a power of two in the scale might not be exact


def conv_kernel(
    reads: tuple[Read, ...], output: str, size: Size, e: Epilogue, source: Layout, x: QParams
) -> Kernel:
    """The kernel of `e.conv`.

    Args:
        reads: rows of the input and of the residuals.
        size: height and width of the conv's own output.
        x: scale and zero point of the input.
    """
    zero = x.zero_point + e.isa.offset
    if depthwise.fits(e):
        return depthwise.depthwise(Stage(e.conv.name, reads, output), size, e, source, zero)
    candidates = [(direct_cost(e), 1)]
    for m in POINTS:
        if fits(e.conv, size, m) and proof_of(e, x, transform(m)).holds and scales_exactly(e):
            candidates.append((winograd_cost(e, m), m))
    _, best = min(candidates)
    if best == 1:
        stage = Stage(e.conv.name, reads, output, e.block)
        return direct(stage, size, e, source, zero)
    t = transform(best)
    stage = Stage(e.conv.name, reads, output, e.block, best)
    tiles = tiles_for(size[1], best, TILES[e.isa.lanes])
    shifted = replace(e, shift=t.shift)
    return winograd(stage, size, shifted, source, zero, t, proof_of(e, x, t), tiles)


def fits(conv: Conv, size: Size, m: int) -> bool:
    """A 3x3 conv of stride 1 whose output is no narrower than a tile."""
    plain = conv.strides == (1, 1) and conv.dilations == (1, 1) and conv.groups == 1
    return plain and conv.kernel == (TAPS, TAPS) and size[1] >= m


def proof_of(e: Epilogue, x: QParams, t: Transform) -> Proof:
    """Bounds of the transform for this layer; stored activations are -128..127, or 0..255."""
    stored = -128 + e.isa.offset, 127 + e.isa.offset
    return prove(t, e.conv.weight, accumulator_bounds(e.conv, x), stored)


def scales_exactly(e: Epilogue) -> bool:
    """The multipliers divided by 2^shift lose no bit."""
    used = e.multiplier[e.multiplier != 0]
    return used.size == 0 or float(np.abs(used).min()) > SMALLEST_SCALE


def tiles_for(width: int, m: int, most: int) -> int:
    """Tiles computed together: those that cover a row with the least overlap, then the most."""

    def cost(tiles: int) -> tuple[int, int]:
        return -(-width // (m * tiles)) * tiles, -tiles

    return (
        min(range(max(1, most // 2), most + 1), key=cost)
        if width >= m * most
        else min(most, width // m)
    )


def direct_cost(e: Epilogue) -> float:
    """Vector multiplications a pixel."""
    _, fan, kh, kw = e.conv.weight.shape
    return (
        1.0 * int(kh) * -(-int(kw) * int(fan) * e.conv.groups // word_elements(e.isa)) * e.vectors
    )


def winograd_cost(e: Epilogue, m: int) -> float:
    """Vector multiplications a pixel, and the transforms in the same unit."""
    frequencies = (m + TAPS - 1) ** 2 / m**2
    channels = int(e.conv.weight.shape[1])
    multiplications = frequencies * -(-channels // 2) * e.vectors
    input_transform = 8 * frequencies * -(-channels // (2 * e.isa.lanes))
    return multiplications + input_transform + 6 * e.vectors
