"""Int8 networks of other quantizers, to compare accuracy with: NNCF and ONNX Runtime.

Both calibrate on the images that the build calibrates on and run as they are meant to: NNCF's in
OpenVINO, ONNX Runtime's QDQ graph with its optimizations off, where its sums cannot saturate.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calib.qparams import F32
from compiler import runner
from compiler.errors import HostError
from compiler.scaling import Net

_ONEDNN = {  # its names of the instruction sets
    "portable": "SSE41",
    "avx2": "AVX2",
    "avxvnni": "AVX2_VNNI",
    "avx512": "AVX512_CORE",
    "vnni": "AVX512_CORE_VNNI",
    "zen4": "AVX512_CORE_VNNI",
}
METHODS = ("MinMax", "Percentile", "Entropy")  # ONNX Runtime's names


def quantizers(
    fp32: onnx.ModelProto, images: Sequence[F32], *, symmetric: bool
) -> Mapping[str, Callable[[], Net]]:
    """Makers of the peers' int8 networks by name, float32 [1, C, H, W] in and out.

    Args:
        images: calibration inputs, float32 [1, C, H, W] each.
        symmetric: activations without zero points, as far as the peer has such an option.
    """
    preset = "performance" if symmetric else "mixed"
    found: dict[str, Callable[[], Net]] = {
        f"NNCF, preset {preset}": lambda: nncf_int8(fp32, images, preset)
    }

    def onnx_runtime(method: str) -> Net:
        model = runner.quantize_static(fp32, _of_one_size(images), method, symmetric=symmetric)
        return runner.Session(model, optimize=False).run

    return found | {f"ONNX Runtime, {m}": partial(onnx_runtime, m) for m in METHODS}


def _of_one_size(images: Sequence[F32]) -> list[F32]:
    """The centres of the images, as large as the smallest sides allow, even."""
    height, width = (min(x.shape[axis] for x in images) // 2 * 2 for axis in (2, 3))

    def centre(x: F32) -> F32:
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        return np.ascontiguousarray(x[:, :, top : top + height, left : left + width])

    return [centre(x) for x in images]


def nncf_int8(fp32: onnx.ModelProto, images: Sequence[F32], preset: str) -> Net:
    """NNCF's post-training quantization with default settings, run by OpenVINO.

    Raises:
        HostError: openvino or nncf is not installed.
    """
    nncf, openvino = packages()
    quantized = quantize(openvino_model(fp32), images, preset=nncf.QuantizationPreset(preset))
    compiled = openvino.Core().compile_model(quantized, "CPU")

    def run(x: F32) -> F32:
        return np.asarray(compiled(x)[0], np.float32)

    return run


def hold_openvino_to(isa: str) -> None:
    """OpenVINO's convolutions use no later instruction set than this one, a key of `FEATURES`.

    They are oneDNN's, which reads the variable when it is first used; of its own kernels some, such
    as that of the pixel shuffle, use what the processor has.
    """
    os.environ["ONEDNN_MAX_CPU_ISA"] = _ONEDNN[isa]


def packages() -> tuple[Any, Any]:
    """The modules nncf and openvino.

    Raises:
        HostError: one of them is not installed.
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise HostError(
            f"the package {error.name} is not installed",
            where="--peers",
            fix="pip install '.[peers]'",
        ) from error
    return nncf, openvino


def openvino_model(fp32: onnx.ModelProto) -> Any:
    """The network as an `openvino.Model`."""
    _, openvino = packages()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32.onnx"
        onnx.save(fp32, path)
        return openvino.convert_model(path)


def quantize(model: Any, images: Sequence[F32], **options: Any) -> Any:
    """An `openvino.Model` quantized by NNCF, calibrated on all images."""
    nncf, _ = packages()
    with runner.quiet():
        return nncf.quantize(model, nncf.Dataset(list(images)), subset_size=len(images), **options)
