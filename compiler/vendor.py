"""`python -m compiler.vendor BUNDLE DIR`: hands a build to the vendor's own compiler.

Writes the vendor's build spec, the network, the description of the pre-processing operator
(`vdsp_params.json`), and the calibration images: as PNG files for the spec, and as NumPy archives
(`input_0`, uint8 [3, H, W]) with their list for the vendor's runner. The first three are in every
bundle too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from calib.errors import ProcessOpError
from calib.images import (
    CenterCrop,
    ChannelSplit,
    CvtColor,
    DecodeImage,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
    write_image,
    write_npz,
)
from compiler import cli, dataset, store
from compiler.errors import StorageError
from compiler.network import Size
from compiler.progress import Reporter
from compiler.spec import Spec

SPEC, PARAMS, DATALIST = "vendor.yaml", "vdsp_params.json", "npz_datalist.txt"
_MODES: Final = ("max", "percentile", "kl_divergence", "mse")
_COLOURS: Final = {"COLOR_RGB2BGR": "RGB2BGR", "COLOR_BGR2RGB": "BGR2RGB"}
_RESIZES: Final = {
    (False, "nearest"): "NEAREST",
    (False, "bilinear"): "BILINEAR_CV",
    (False, "bicubic"): "BICUBIC",
    (False, "lanczos"): "LANCZOS_CV",
    (True, "bilinear"): "BILINEAR_PILLOW",
    (True, "bicubic"): "BICUBIC_PILLOW",
    (True, "lanczos"): "LANCZOS_PILLOW",
    (True, "box"): "BOX_PILLOW",
    (True, "hamming"): "HAMMING_PILLOW",
}


def vdsp_params(ops: Sequence[ProcessOp], size: Size) -> dict[str, Any]:
    """The vendor's fused pre-processing operator that does what `ops` do.

    Args:
        size: height and width of the network's input.
    Returns:
        OpType and OpConfig; Mean and Std are rounded to binary16, as the operator stores them.
    Raises:
        ProcessOpError: the operator has no counterpart for a step, or for their order.
    """
    resize, crop, pad, colour, normalize = _fused(ops)
    before_crop = resize.size if crop and resize else size
    kind = "RGB_LETTERBOX" if pad else "RGB_RESIZE" if resize else "RGB"
    config: dict[str, Any] = {
        "IimageFormat": "RGB_PLANAR",
        "IimageWidth": before_crop[1],
        "IimageHeight": before_crop[0],
        "OimageWidth": size[1],
        "OimageHeight": size[0],
    }
    if crop and resize:
        config |= {
            "CropX": round((resize.size[1] - crop.crop_size[1]) / 2),
            "CropY": round((resize.size[0] - crop.crop_size[0]) / 2),
            "ResizeWidth": resize.size[1],
            "ResizeHeight": resize.size[0],
        }
    mean, std = normalize.mean or (0.0,), normalize.std or (1.0,)
    config |= {
        "IimageWidthPitch": before_crop[1],
        "IimageHeightPitch": before_crop[0],
        "Mean": _halves(mean),
        "Std": _halves(std),
        "NormaType": _norm_type(normalize),
        "ColorCvtCode": _COLOURS[colour.code] if colour else "NO_CHANGE",
    }
    if resize:
        config["ResizeType"] = _RESIZES[(resize.backend == "pillow", resize.interpolation)]
    name = f"FUSION_OP_{kind}_CVTCOLOR{'_CROP' if crop else ''}_NORM_TENSOR"
    return {"OpType": name, "OpConfig": config}


_Fused = tuple[Resize | None, CenterCrop | None, Pad | None, CvtColor | None, Normalize]


def _fused(ops: Sequence[ProcessOp]) -> _Fused:
    """The steps that the fused operator has, at most one of each, in the order of its name."""
    kinds = (Resize, CenterCrop, Pad, CvtColor, Normalize)
    found: dict[type, Any] = {}
    for op in ops:
        _require_counterpart(op)
        if isinstance(op, kinds):
            if type(op) in found:
                raise _unmatched(f"a second {op.type}")
            if Normalize in found:
                raise _unmatched(f"{op.type} after Normalize")
            found[type(op)] = op
    resize, crop, pad, colour, normalize = (found.get(kind) for kind in kinds)
    order = [type(op) for op in ops if isinstance(op, Resize | CenterCrop | Pad)]
    letterbox = [Resize, Pad] if resize and resize.size[1] == -1 else None
    if order not in ([], [Resize], [Resize, CenterCrop], letterbox):
        raise _unmatched(" then ".join(kind.__name__ for kind in order))
    if resize and resize.size[1] == -1 and not pad:
        raise _unmatched("Resize to [n, -1] without Pad")
    return resize, crop, pad, colour, normalize or Normalize(div255=False)


def _require_counterpart(op: ProcessOp) -> None:
    match op:
        case ChannelSplit() | DecodeImage(cv2_flags=0):
            raise _unmatched("one channel")
        case CvtColor() if op.code not in _COLOURS:
            raise _unmatched(op.code)
        case Resize() if (op.backend == "pillow", op.interpolation) not in _RESIZES:
            raise _unmatched(f"interpolation {op.interpolation} of {op.backend}")
        case Pad(pad_to_square=False):
            raise _unmatched("Pad without pad_to_square")


def _unmatched(what: str) -> ProcessOpError:
    return ProcessOpError(
        f"the vendor's fused pre-processing operators have no counterpart of {what}",
        where="dataset.process_ops",
        fix="pre-process in the application, or change the steps",
    )


def _norm_type(op: Normalize) -> str:
    if op.mean is None:
        return "DIV255" if op.div255 else "EQUAL"
    return "DIV255_MINUSMEAN_DIVSTD" if op.div255 else "MINUSMEAN_DIVSTD"


def _halves(values: Sequence[float]) -> list[float]:
    """Three values in binary16."""
    three = values if len(values) == 3 else [values[0]] * 3
    return [float(np.float16(value)) for value in three]


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
    (shape,) = spec.frontend.shape.values()
    decoding = sum(isinstance(op, DecodeImage) for op in data.process_ops[:1])
    ops = list(data.process_ops)
    ops.insert(decoding, Resize(size=(shape[2], shape[3])))
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
        params = vdsp_params(data.process_ops if data else [], size)
    except ProcessOpError as error:
        return written, (f"no {PARAMS}: {error.what}",)
    return written | {PARAMS: _json(params)}, ()


def _json(params: dict[str, Any]) -> str:
    return json.dumps(params, indent=2) + "\n"


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
    params = vdsp_params(data.process_ops, size)
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
    (folder / PARAMS).write_text(_json(params), encoding="utf-8")
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
