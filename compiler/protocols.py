"""The protocols of verification: what is compared with what, at which size and border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from calib import bicubic
from calib.qparams import F32
from compiler import scaling
from compiler.crops import Answers
from compiler.engine import Engine
from compiler.scaling import Rgb
from compiler.schema import Protocol


def _standard(engine: Engine, name: str, lr: Rgb, hr: Rgb) -> Answers:
    """Native size, uint8 output, a border of `rate` pixels cropped, RGB and Y."""
    rate = engine.scaling.rate
    size = (lr.shape[0] * rate, lr.shape[1] * rate)
    x = scaling.to_input(engine.ops, lr, engine.scaling)
    y = engine.run_int8(x)

    def finished(answer: F32) -> Rgb:
        return scaling.to_uint8(scaling.from_output(answer, size))

    return Answers(
        name,
        x=x,
        y=y,
        truth=scaling.reference(engine.ops, hr)[: size[0], : size[1]],
        fp32=finished(engine.run_fp32(x)),
        int8=finished(y),
        bicubic=scaling.bicubic_upscale(engine.ops, lr, rate),
        border=rate,
        with_y=True,
    )


def _vendor(engine: Engine, name: str, lr: Rgb, hr: Rgb) -> Answers:
    """LR stretched to the spec's size, truth resized to the output, unrounded, no crop, no Y."""
    rate, size = engine.scaling.rate, engine.main_size
    x = scaling.vendor_input(engine.ops, lr, size)
    y = engine.run_int8(x)
    stretched = scaling.to_uint8(scaling.from_output(x, size))
    return Answers(
        name,
        x=x,
        y=y,
        truth=scaling.vendor_reference(engine.ops, hr, (size[0] * rate, size[1] * rate)),
        fp32=scaling.vendor_output(engine.run_fp32(x)),
        int8=scaling.vendor_output(y),
        bicubic=bicubic.upscale(stretched, rate),
        border=0,
        with_y=False,
    )


PROTOCOLS: Final[Mapping[Protocol, Callable[[Engine, str, Rgb, Rgb], Answers]]] = {
    "standard": _standard,
    "vendor": _vendor,
}
"""From engine, name, LR and HR image (uint8 [H, W, 3]) to the answers of all competitors."""
