"""Where the rows of a stored tensor are: a ring inside a band, or the whole image."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels.builder import i32, let, power_of_two_runs, serial, splat, store, when
from compiler.kernels.isa import Expr

LINE = 64  # bytes of a cache line
SLACK = 64  # bytes after a row that a vector load may touch


@dataclass(frozen=True)
class Layout:
    """Layout of one stored tensor: rows of pixels of channels, with a border around.

    Attributes:
        channels, height, width: of the tensor.
        left, right: border pixels beside each row.
        top, bottom: border rows.
        fill: what the border holds, in stored form: `Network.padding` + offset.
    """

    channels: int
    height: int
    width: int
    left: int
    right: int
    top: int
    bottom: int
    fill: int

    @property
    def begin(self) -> int:
        """Bytes before the border, so that pixel 0 begins a cache line."""
        return -self.left * self.channels % LINE

    @property
    def stride(self) -> int:
        """Bytes from a row to the next."""
        used = self.begin + (self.left + self.width + self.right) * self.channels + SLACK
        return -(-used // LINE) * LINE

    @property
    def image_rows(self) -> int:
        """Rows of the whole image with its border."""
        return self.top + self.height + self.bottom

    def at(self, x: Expr, channel: Expr = 0) -> Expr:
        """Index of a pixel's channel inside a row; x counts from -left."""
        return x * self.channels + (self.begin + self.left * self.channels) + channel


@dataclass(frozen=True)
class Rows:
    """Rows of one tensor in a 2-D buffer [slots, stride]: a ring, or all of them."""

    buffer: Expr
    layout: Layout
    ring: int  # slots of the ring; 0: the whole image

    def slot(self, y: Expr) -> Expr:
        """The slot of row y; whole images clamp y to the rows that exist."""
        if self.ring:
            return let(T.floormod(y + self.ring, self.ring))
        last = self.layout.image_rows - 1
        return let(T.max(T.min(y + self.layout.top, i32(last)), i32(0)))

    def fill_row(self, y: Expr) -> None:
        """Row y, border included, becomes what stands outside the image."""
        slot, layout = self.slot(y), self.layout
        with serial(layout.stride // LINE) as i:
            store(
                self.buffer,
                splat(layout.fill, self.buffer.dtype, LINE),
                [slot, T.ramp(i * LINE, 1, LINE)],
            )

    def fill_sides(self, slot: Expr) -> None:
        """Writes the border beside a row."""
        layout = self.layout
        for first, pixels in ((0, layout.left), (layout.left + layout.width, layout.right)):
            start = layout.begin + first * layout.channels
            for offset, n in power_of_two_runs(pixels * layout.channels, 64):
                index = T.ramp(i32(start + offset), 1, n) if n > 1 else i32(start + offset)
                store(self.buffer, splat(layout.fill, self.buffer.dtype, n), [slot, index])

    def pad_outside(self, first: Expr, count: int) -> None:
        """Fills those of `count` rows from `first` that lie outside the image."""
        height = self.layout.height
        with when(tir.any(first < 0, first + count > height)), serial(count) as i:
            y = let(first + i)
            with when(tir.any(y < 0, y >= height)):
                self.fill_row(y)
