"""Measures networks beside plain bicubic on folders of ground truths, the `standard` protocol.

    python -m models.evaluate models/bicubic_plusplus_3x.onnx --hr ../shared/data/set5/HR

LR is the MATLAB-style bicubic reduction of the HR, cropped to a multiple of the rate; the output is
rounded to uint8, a border of `rate` pixels is cropped, the peak is 255; RGB over all channels, Y by
BT.601 (16 to 235), unrounded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.bicubic import crop_to_multiple, downscale, upscale
from calib.errors import WorkbenchError
from calib.images import list_images, read_image
from compiler.errors import ModelError
from compiler.metrics import psnr_db, rgb_to_y
from compiler.runner import Session
from compiler.scaling import Scaling, from_output, pad_frame, to_uint8

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 [1, 3, H, W] in [0, 1], H and W even -> float32 [1, 3, rate*H, rate*W]."""

Upscaler = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""RGB uint8 [H, W, 3] -> RGB uint8 [rate*H, rate*W, 3]."""


@dataclass(frozen=True)
class Psnr:
    """Peak signal-to-noise ratio in dB, over RGB and over luma alone."""

    rgb_db: float
    y_db: float


def upscaler(network: Network, rate: int) -> Upscaler:
    """Wraps a network for images of any size.

    An odd side is padded by one replicated row or column, and the output is cropped to match.
    """
    even = Scaling(rate, grid=2)

    def run(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        x: NDArray[np.float32] = pad_frame(image, even).transpose(2, 0, 1)[None].astype(np.float32)
        x /= 255
        return to_uint8(from_output(network(x), (rate * height, rate * width)))

    return run


def measure(upscale: Upscaler, images: Sequence[NDArray[np.uint8]], rate: int) -> Psnr:
    """Mean over the ground truths of the PSNR that an upscaler reaches from their reductions."""
    rgb_db, y_db = [], []
    for image in images:
        hr = crop_to_multiple(image, rate)
        answer = upscale(downscale(hr, rate))
        rgb_db.append(psnr_db(hr, answer, rate))
        y_db.append(psnr_db(rgb_to_y(hr), rgb_to_y(answer), rate))
    return Psnr(float(np.mean(rgb_db)), float(np.mean(y_db)))


def load_network(path: Path) -> tuple[Network, int]:
    """A super-resolution ONNX file and its rate, found by running it on a black image.

    Raises:
        ModelError: the file is missing, damaged, or no upscaling network.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's own classes, or the file system's
        raise ModelError(
            "not a readable ONNX file", where=str(path), fix="name a model of models/"
        ) from error
    session = Session(model)
    black = session.run(np.zeros((1, 3, 4, 4), np.float32))
    if black.ndim != 4 or black.shape[2] % 4 or black.shape[2] != black.shape[3]:
        raise ModelError(
            f"turns 4x4 pixels into {list(black.shape)}, which is no upscaling",
            where=str(path),
            fix="name a super-resolution model",
        )
    return session.run, black.shape[2] // 4


def main(arguments: list[str] | None = None) -> int:
    """Command line; prints one row a folder and method, returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--hr", type=Path, nargs="+", required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        for path in options.model:
            _print_rows(path, options.hr)
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _print_rows(path: Path, folders: Sequence[Path]) -> None:
    network, rate = load_network(path)
    for folder in folders:
        images = [read_image(file) for file in list_images(folder, None, None)]
        print(f"{folder}  {len(images)} images, {rate}x, PSNR dB RGB / Y")
        for name, method in (
            ("bicubic", lambda image: upscale(image, rate)),
            (path.stem, upscaler(network, rate)),
        ):
            psnr = measure(method, images, rate)
            print(f"  {name:<24}{psnr.rgb_db:8.3f} / {psnr.y_db:.3f}")


if __name__ == "__main__":
    sys.exit(main())
