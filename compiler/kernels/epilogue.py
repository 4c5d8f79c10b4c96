"""Fused epilogues: what happens to the accumulators of a conv, and in which lanes they are.

v = float32(acc) * M[c]; then the steps, each rounded once:
    Activation  v = v if v >= 0 else v * alpha[c]
    Residual    v = fma(float32(q_r - z_r), R, v)
and the end: int8 clamp(rne(v) + z), uint8 clamp(rne(v), 0, 255), float32 v. Where the output goes
is a list of `Segment`s: runs of contiguous elements, each a lane of a pixel; a pixel shuffle is
nothing but other segments. The order of the lanes is that of the segments, so that each run draws
on few vectors; the weights are permuted to match. `finish` computes v, `stores` stores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import lcm

import numpy as np
from numpy.typing import NDArray

from calib.qparams import F32, requantize_multiplier, uint8_multiplier
from compiler.kernels.isa import Isa
from compiler.kernels.rows import LINE
from compiler.network import Activation, Conv, DepthToSpace, Tensor
from compiler.reference import residual_multiplier

STREAM_BYTES = 16 << 20  # outputs larger than this do not stay in the caches anyway


@dataclass(frozen=True)
class Segment:
    """Channels of one pixel that are contiguous in the output.

    For an image stored by planes, `plane` and `row` say where; for one stored by pixels, `row`.
    """

    channels: tuple[int, ...]
    row: int = 0
    plane: int = 0


def segments(channels: int, planar: bool, shuffle_op: DepthToSpace | None) -> list[Segment]:
    """Segments of an output pixel with `channels` channels, before the optional pixel shuffle."""
    if shuffle_op is None:
        if planar:
            return [Segment((c,), 0, c) for c in range(channels)]
        return [Segment(tuple(range(channels)))]
    b, depth = shuffle_op.block, channels // shuffle_op.block**2

    def source(c: int, i: int, j: int) -> int:
        return (c * b + i) * b + j if shuffle_op.mode == "CRD" else (i * b + j) * depth + c

    if planar:
        return [
            Segment(tuple(source(c, i, j) for j in range(b)), i, c)
            for c in range(depth)
            for i in range(b)
        ]
    return [
        Segment(tuple(source(c, i, j) for j in range(b) for c in range(depth)), i) for i in range(b)
    ]


@dataclass(frozen=True, eq=False)
class Epilogue:
    """The epilogue of one conv for one instruction set.

    Attributes:
        out, residuals: tensor types of the output and of the residuals.
        block: of the fused pixel shuffle, 1 without.
        parts: the segments; their channels in order are the lanes.
        shift: accumulators arrive times 2^shift.
        bound: max |acc| (without 2^shift).
    """

    isa: Isa
    conv: Conv
    out: Tensor
    residuals: dict[str, Tensor]
    block: int
    parts: list[Segment]
    multiplier: F32
    bound: float
    shift: int = 0
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @property
    def order(self) -> list[int]:
        """The output channel of each lane."""
        return [c for part in self.parts for c in part.channels]

    @property
    def vectors(self) -> int:
        """Vectors that hold one pixel."""
        return -(-len(self.order) // self.isa.lanes)

    @property
    def edges(self) -> list[int]:
        """The vectors at whose first lane a segment begins, and the end."""
        begins = accumulate((len(part.channels) for part in self.parts), initial=0)
        return sorted(
            {lane // self.isa.lanes for lane in begins if lane % self.isa.lanes == 0}
            | {self.vectors}
        )

    @property
    def element_bytes(self) -> int:
        """Bytes of an output element."""
        return 4 if self.out.kind == "float32" else 1

    @property
    def whole(self) -> int:
        """Output elements of a whole vector."""
        return 4 * self.isa.lanes // self.element_bytes

    @property
    def line(self) -> int:
        """The fewest pixels whose segments are whole cache lines."""
        size = self.element_bytes * len(self.parts[0].channels)
        return lcm(LINE, size) // size

    @property
    def pixels(self) -> int:
        """Pixels that make whole cache lines (float32) or are worth packing together (bytes)."""
        if self.out.kind == "float32":
            return self.line
        return 1 if self.in_order else 4

    @property
    def in_order(self) -> bool:
        """Stored in the order of the lanes: an int8 tensor without a pixel shuffle."""
        return self.out.kind == "int8" and self.block == 1


def streams(e: Epilogue, size: tuple[int, int], together: int, step: int) -> bool:
    """Whether the network's answer can be written past the caches, in whole aligned lines.

    Args:
        size: height and width before the pixel shuffle.
        together: pixels whose segments are stored together.
        step: pixels of a block; a row's last block ends with the row and may overlap another.
    """
    if e.out.kind == "int8" or together % e.line or step % e.line or size[1] % e.line:
        return False
    return e.element_bytes * len(e.order) * size[0] * size[1] > STREAM_BYTES


def multiplier(conv: Conv, s_x: float, out: Tensor) -> F32:
    """M[c] of a conv whose input has the scale s_x."""
    match out.kind:
        case "int8":
            return requantize_multiplier(s_x, conv.weight_scale, out.q.scale)
        case "float32":
            return requantize_multiplier(s_x, conv.weight_scale)
        case "uint8":
            return uint8_multiplier(s_x, conv.weight_scale)


def by_lane(values: NDArray[np.generic], order: Sequence[int], count: int) -> NDArray[np.generic]:
    """Per-channel values in the order of the lanes, zero in the lanes left over."""
    out = np.zeros((count, *values.shape[1:]), values.dtype)
    out[: len(order)] = values[list(order)]
    return out


def prepare(e: Epilogue) -> dict[str, NDArray[np.generic]]:
    """Constants: `scale` float32 [lanes], and `alpha<i>` where it differs by channel."""
    count = e.vectors * e.isa.lanes
    scale = np.ldexp(e.multiplier, -e.shift).astype(np.float32)
    constants = {"scale": by_lane(scale, e.order, count)}
    for i, step in enumerate(e.conv.steps):
        if isinstance(step, Activation) and step.alpha.size > 1:
            constants[f"alpha{i}"] = by_lane(step.alpha.astype(np.float32), e.order, count)
    return constants


def value_bound(e: Epilogue) -> float:
    """Upper bound of |v| before the conversion to integer."""
    v = e.bound * float(np.abs(e.multiplier).max()) * 1.001
    for step in e.conv.steps:
        if isinstance(step, Activation):
            v *= max(1.0, float(np.abs(step.alpha).max()))
        else:
            r = residual_multiplier(step, e.residuals[step.tensor].q.scale, e.out)
            v += 256.0 * abs(float(r))
        v *= 1.001
    return v
