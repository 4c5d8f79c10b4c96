"""The Python interface: load a bundle, call it like a function."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import ImageError
from compiler import bundle, reference, scaling
from compiler.engine import Engine

Array = NDArray[Any]


def load(path: str | PathLike[str]) -> Callable[[Array], Array]:
    """The int8 library of a bundle, as a function of one image of any size.

    The function takes float32 [1, C, H, W] in [0, 1] and returns [1, C, H r, W r] in the spec's
    output type, or takes a uint8 [H, W, 3] RGB frame and returns uint8 [H r, W r, 3]. A library of
    another size is compiled at its first use and kept.

    Raises:
        BundleError: not a bundle, or changed after it was built.
        HostError: the library needs an instruction set that this machine lacks.
        ImageError (from the function): an array of another shape or type.
    """
    engine = bundle.load(Path(path)).engine

    def net(x: Array) -> Array:
        if x.dtype == np.uint8 and x.ndim == 3:
            _require_frame(x)
            return engine.run_frames(x)
        _require_tensor(x, engine)
        kind = engine.spec.backend.output.dtype
        variant = engine.variant("float32", kind)
        padded = scaling.pad_tensor(x, engine.scaling)
        y = engine.library(variant, (padded.shape[2], padded.shape[3]))(padded)
        return _cropped(variant.on_host(y), x, engine)

    return net


def golden(path: str | PathLike[str]) -> Callable[[Array], Array]:
    """The golden model of a bundle: slow NumPy, the same types and sizes as `load`."""
    engine = bundle.load(Path(path)).engine

    def net(x: Array) -> Array:
        if x.dtype == np.uint8 and x.ndim == 3:
            _require_frame(x)
            return engine.golden_frames(x)
        _require_tensor(x, engine)
        variant = engine.variant("float32", engine.spec.backend.output.dtype)
        return _cropped(reference.run(variant, scaling.pad_tensor(x, engine.scaling)), x, engine)

    return net


def _require_frame(x: Array) -> None:
    if x.shape[2] != 3:
        raise ImageError(f"the frame is uint8 {list(x.shape)}", fix="give RGB, uint8 [H, W, 3]")


def _require_tensor(x: Array, engine: Engine) -> None:
    channels = engine.net.input_tensor.channels
    if x.dtype != np.float32 or x.ndim != 4 or x.shape[:2] != (1, channels):
        raise ImageError(
            f"the input is {x.dtype} {list(x.shape)}",
            fix=f"give float32 [1, {channels}, H, W] in [0, 1], or a uint8 frame [H, W, 3]",
        )


def _cropped(y: Array, x: Array, engine: Engine) -> Array:
    rows, cols = (side * engine.scaling.rate for side in x.shape[2:])
    frames = y.dtype == np.uint8
    return y[:, :rows, :cols] if frames else y[:, :, :rows, :cols]
