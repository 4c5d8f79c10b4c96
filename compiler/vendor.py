"""`python -m compiler.vendor BUNDLE DIR`: hands a build to the vendor's own compiler.

Writes the vendor's build spec, the network, the description of the pre-processing operator
(`vdsp_params.json`), and the calibration images: as PNG files for the spec, and as NumPy archives
(`input_0`, uint8 [3, H, W]) with their list for the vendor's runner. The first three are in every
bundle too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from calib.errors import ProcessOpError
from calib.images import (
    CenterCrop,
    DecodeImage,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
    write_image,
    write_npz,
)
from compiler import cli, dataset, store, vdsp
from compiler.errors import StorageError
from compiler.network import Size
from compiler.progress import Reporter
from compiler.schema import Spec

SPEC, PARAMS, DATALIST = "vendor.yaml", "vdsp_params.json", "npz_datalist.txt"
_MODES: Final = ("max", "percentile", "kl_divergence", "mse")


def vendor_spec(spec: Spec, checkpoint: str, images: str | None, count: int) -> str:
    """The build as YAML with the vendor's keys alone.

    Args:
        checkpoint: path of the ONNX network.
        images, count: folder of PNG calibration images, if they are exported, and their number.
    """
    wish, data = spec.backend.quantize, spec.dataset
    mode = wish.calibrate_mode if wish.calibrate_mode in _MODES else "percentile"
    quantize: dict[str, Any] = {
        "calibrate_mode": mode,
        "quantize_per_channel": wish.quantize_per_channel,
    }
    if mode == "percentile":
        quantize["calibrate_range"] = wish.calibrate_range
    if wish.weight_scale == "power2":
        quantize["weight_scale"] = "power2"
    sampler = {"suffix": data.sampler.suffix if data else None, "get_data_num": count}
    result = {
        "name": spec.name,
        "frontend": {
            "shape": spec.frontend.shape,
            "type": "onnx",
            "checkpoint": checkpoint,
            "dtype": "fp32",
        },
        "backend": {
            "type": "tvm_vacc",
            "dtype": spec.backend.dtype,
            "compile": {"data_transport_mode": 1},
            "quantize": quantize,
        },
        "dataset": {
            "type": "tvm",
            "path": images or (data.path if data else None) or "/path/to/images",
            "sampler": {"suffix": "png", "get_data_num": count} if images else sampler,
            "process_ops": [_written(op) for op in (data.process_ops if data else [])],
        },
        "workspace": {"path": "./deploy_weights"},
    }
    return yaml.safe_dump(result, sort_keys=False, width=100)


def _written(op: ProcessOp) -> dict[str, Any]:
    """A step with its `type` first and what differs from the defaults; norm_type where needed."""
    values = {"type": op.type} | op.model_dump(mode="json", exclude_defaults=True)
    if isinstance(op, Normalize) and op.mean is None:
        values["norm_type"] = None
    return values


def fixed_size(spec: Spec) -> Spec:
    """The spec with a Resize to its shape, where its steps leave sizes as they are.

    The vendor's compiler builds and calibrates for one size; ours takes images as they come.
    """
    data = spec.dataset
    if data is None or any(isinstance(op, Resize | CenterCrop | Pad) for op in data.process_ops):
        return spec
    decoding = sum(isinstance(op, DecodeImage) for op in data.process_ops[:1])
    ops = list(data.process_ops)
    ops.insert(decoding, Resize(size=spec.frontend.size))
    resized = data.model_copy(update={"process_ops": ops})
    return spec.model_copy(update={"dataset": resized})


def texts(spec: Spec, size: Size) -> tuple[dict[str, str], tuple[str, ...]]:
    """What every bundle holds: the vendor spec, and the operator where it has a counterpart.

    Returns:
        File name to content; and warnings.
    """
    spec = fixed_size(spec)
    data = spec.dataset
    count = data.sampler.get_data_num if data else 0
    written = {SPEC: vendor_spec(spec, "fp32.onnx", None, count)}
    try:
        params = vdsp.params(data.process_ops if data else [], size)
    except ProcessOpError as error:
        return written, (f"no {PARAMS}: {error.what}",)
    return written | {PARAMS: store.json_text(params)}, ()


def export(
    folder: Path, spec: Spec, fp32: bytes, size: Size, rate: int, reporter: Reporter
) -> None:
    """Fills `folder` with everything that the vendor's compiler and runner need.

    Raises:
        ProcessOpError: the vendor's operators have no counterpart for the pre-processing.
        DataError: the calibration images are absent.
    """
    spec = fixed_size(spec)
    data = spec.dataset
    assert data is not None
    params = vdsp.params(data.process_ops, size)
    photos = dataset.calibration_set(data, rate).photos
    (folder / "npz").mkdir(parents=True)
    names = []
    for photo in reporter.track(photos, "calibration images"):
        rgb = photo.read()
        stem = Path(photo.name).stem
        write_image(folder / "images" / f"{stem}.png", rgb)
        write_npz(folder / "npz" / f"{stem}.npz", _staged(data.process_ops, rgb))
        names.append(f"npz/{stem}.npz\n")
    (folder / DATALIST).write_text("".join(names), encoding="utf-8")
    (folder / "fp32.onnx").write_bytes(fp32)
    (folder / PARAMS).write_text(store.json_text(params), encoding="utf-8")
    text = vendor_spec(spec, "fp32.onnx", "images", len(photos))
    (folder / SPEC).write_text(text, encoding="utf-8")


def _staged(ops: Sequence[ProcessOp], rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image at the size that the operator reads (IimageHeight x IimageWidth)."""
    for op in ops:
        if isinstance(op, Resize | Pad):
            rgb = op.apply(rgb)
    return rgb


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "vendor",
        "Export a bundle for the vendor's compiler: spec, network, pre-processing operator,\n"
        "calibration images.",
        examples=("artifacts/bpp3x_int8 for_vendor",),
    )
    result.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    result.add_argument(
        "out", type=Path, metavar="DIR", help="a new directory, or an earlier export"
    )
    return cli.with_output(result)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Exports; the directory appears when it is complete."""
    from compiler import bundle  # tvm and onnxruntime: slow to import, not for --help

    built = bundle.load(args.bundle)
    if args.out.exists() and not (args.out / SPEC).is_file():
        raise StorageError(
            "exists and is no export of a bundle",
            where=str(args.out),
            fix="name a new directory; an earlier export may be replaced",
        )
    with store.atomic(args.out) as temporary:
        fp32 = (args.bundle / "fp32.onnx").read_bytes()
        export(
            temporary, built.spec, fp32, built.engine.main_size, built.engine.scaling.rate, reporter
        )
    reporter.stage(f"written to {args.out}: {SPEC}, {PARAMS}, {DATALIST}, images, npz, fp32.onnx")
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
