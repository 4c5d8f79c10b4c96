"""Simplification with onnxsim, in a process of its own, and the numeric proof that it is sound.

onnxsim is C++: a graph that crashes it must not take the build down. Where it crashes, hangs or
changes the result, the build warns and goes on with the original graph.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from compiler.model import LoadedModel, canonical
from compiler.runner import Session, random_input

_TIMEOUT_S = 300
_RELATIVE_TOLERANCE = 1e-4
_CHILD = """
import sys, onnx, onnxsim
onnx.save(onnxsim.simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])
"""


@dataclass(frozen=True)
class SimplifiedModel:
    """The fp32 baseline: canonical, with symbolic height and width.

    Attributes:
        max_error: largest difference from the original on random input, over the largest output.
        warnings: why the original graph was kept, where it was.
    """

    proto: onnx.ModelProto
    max_error: float
    warnings: tuple[str, ...] = ()


def simplify(loaded: LoadedModel, *, seed: int = 0) -> SimplifiedModel:
    """Simplifies, recognises PixelShuffle, and checks the result on random input.

    The check runs original and result in ONNX Runtime on uniform noise in [0, 1) of the spec's
    shape; they may differ by 1e-4 of the largest output, the rounding noise of fused operators.
    """
    warnings: list[str] = []
    simplified, why = _isolated(loaded.proto)
    if why:
        warnings.append(f"onnxsim {why}; going on with the original graph")
    candidate = _inferred_canonical(simplified or loaded.proto)
    error = _difference(loaded, candidate, seed)
    if error > _RELATIVE_TOLERANCE:
        warnings.append(
            f"the simplified graph differs from the original by {error:.1e} of its range; "
            "going on with the original graph"
        )
        candidate = _inferred_canonical(loaded.proto)
        error = _difference(loaded, candidate, seed)
    return SimplifiedModel(candidate, error, tuple(warnings))


def _isolated(model: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    """onnxsim's result from a child process, or None and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="vacc-simplify-") as folder:
        source, result = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        source.write_bytes(model.SerializeToString())
        command = [sys.executable, "-c", _CHILD, str(source), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, text=True)
        except subprocess.TimeoutExpired:
            return None, f"took longer than {_TIMEOUT_S} s"
        if done.returncode or not result.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return None, f"failed (exit status {done.returncode}: {last})"
        return onnx.load_model_from_string(result.read_bytes()), ""


def _inferred_canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    return canonical(onnx.shape_inference.infer_shapes(model))


def _difference(loaded: LoadedModel, candidate: onnx.ModelProto, seed: int) -> float:
    """Largest absolute difference over the largest absolute output, for one random input."""
    dims = [d.dim_value for d in loaded.proto.graph.input[0].type.tensor_type.shape.dim]
    if len(loaded.proto.graph.input) != 1 or len(dims) != 4 or dims[0] != 1:
        return 0.0  # refused by name later, by `fusion.fuse`
    x = random_input(dims[1], dims[2], dims[3], seed)
    original = Session(loaded.proto).run(x)
    result = Session(candidate).run(x)
    peak = float(np.abs(original).max()) or 1.0
    return float(np.abs(original - result).max()) / peak
