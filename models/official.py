"""Fetches the checkpoint that the authors of Bicubic++ published, and converts it to ONNX.

The checkpoint (3x, trained for input of JPEG quality 90) and everything made from it are licensed
CC BY-NC-SA 4.0, so the user fetches or brings it; it is no part of this project.

    python -m models.official [--from bicubic_pp_x3.pth]
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import WorkbenchError
from compiler.errors import FetchError, HostError, ModelError
from compiler.fetch import download
from models.bicubic_plusplus import check_state, export_onnx

SHA256 = "38a0cff7927b7658c78f19df2281d0e5c3b20e948955e9dd58e9f91d13ebc7df"
URL = (
    "https://raw.githubusercontent.com/aselsan-research-imaging-team/bicubic-plusplus/"
    "52084c8d016f5e8a5cd62c050e47536a0d022177/pretrained/bicubic_pp_x3.pth"
)
RATE = 3
OUT = Path("models/official/bicubic_plusplus_3x.onnx")

_DESCRIPTION = (
    "Bicubic++ 3x as published by its authors (Bilecen and Ayazoglu, 2023), converted to ONNX; "
    f"checkpoint sha256 {SHA256}; licence CC BY-NC-SA 4.0"
)


def convert(checkpoint: Path, out: Path) -> None:
    """Converts the published checkpoint to an ONNX file; the same checkpoint, the same bytes.

    Args:
        checkpoint: `bicubic_pp_x3.pth`, digest `SHA256`.
        out: path of the ONNX file, which appears complete or not at all.

    Raises:
        FetchError: `checkpoint` is missing or is not the pinned file.
        HostError: PyTorch is not installed.
        ModelError: as `read_state`.
        StorageError: `out` cannot be written.
    """
    _require_pinned(checkpoint)
    export_onnx(read_state(checkpoint, RATE), RATE, out, _DESCRIPTION)


def fetch(folder: Path) -> Path:
    """Downloads the checkpoint from its pinned commit, once; returns its path in `folder`.

    Raises:
        FetchError: the download failed, or the file is not the pinned one.
        StorageError: `folder` cannot be written.
    """
    return download(URL, folder / "bicubic_pp_x3.pth", sha256=SHA256)


def read_state(checkpoint: Path, rate: int) -> dict[str, NDArray[np.float32]]:
    """Reads the kernels of a Bicubic++ state dict; runs no code that the file may carry.

    Raises:
        HostError: PyTorch is not installed.
        ModelError: the file is no checkpoint, or not one of this network at this rate.
    """
    try:
        import torch
    except ImportError as error:
        raise HostError(
            "PyTorch, which reads the checkpoint, is not installed",
            where=str(checkpoint),
            fix='install the extra: pip install "vacc-workbench[train]"',
        ) from error
    damaged = ModelError(
        "not a PyTorch checkpoint of plain tensors",
        where=str(checkpoint),
        fix="use the .pth file that the authors publish",
    )
    try:
        with warnings.catch_warnings():  # an odd pickle protocol, refused below all the same
            warnings.simplefilter("ignore")
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise damaged from error
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise damaged
    kernels = {str(name): tensor.detach().numpy() for name, tensor in state.items()}
    check_state(kernels, rate, str(checkpoint))
    return kernels


def _require_pinned(checkpoint: Path) -> None:
    try:
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except OSError as error:
        raise FetchError(
            f"cannot read the checkpoint: {error.strerror}",
            where=str(checkpoint),
            fix="name the downloaded bicubic_pp_x3.pth with --from",
        ) from error
    if digest != SHA256:
        raise FetchError(
            f"sha256 is {digest}, expected {SHA256}",
            where=str(checkpoint),
            fix="download bicubic_pp_x3.pth again from the authors' repository",
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line of the conversion; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.official", description=__doc__)
    parser.add_argument(
        "--from",
        dest="checkpoint",
        type=Path,
        metavar="PATH",
        help="a local bicubic_pp_x3.pth; default: download it beside --out",
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="PATH")
    options = parser.parse_args(arguments)
    try:
        convert(options.checkpoint or fetch(options.out.parent), options.out)
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"wrote {options.out} (Bicubic++ 3x, licence CC BY-NC-SA 4.0)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
