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

from compiler.errors import ModelError
from compiler.model import LoadedModel, canonical
from compiler.runner import Array, Session, random_input

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

    Raises:
        ModelError: the original does not run, or its output on noise is not finite.
    """
    sample = _Sample.of(loaded, seed)
    simplified, why = _isolated(loaded.proto)
    if simplified is not None:
        candidate = _inferred_canonical(simplified)
        error, why = sample.compare(candidate)
        if not why:
            return SimplifiedModel(candidate, error)
    candidate = _inferred_canonical(loaded.proto)
    error, wrong = sample.compare(candidate)
    if wrong:
        raise ModelError(
            f"making the graph canonical {wrong}",
            where=str(loaded.path),
            fix="this is a bug in the workbench; report it with the network",
        )
    return SimplifiedModel(candidate, error, (f"onnxsim {why}; going on with the original graph",))


@dataclass(frozen=True, eq=False)
class _Sample:
    """Noise and the original's answer to it; None where the network does not take one image."""

    x: Array | None
    expected: Array | None

    @classmethod
    def of(cls, loaded: LoadedModel, seed: int) -> _Sample:
        ports = loaded.proto.graph.input
        dims = [d.dim_value for d in ports[0].type.tensor_type.shape.dim] if ports else []
        if len(ports) != 1 or len(dims) != 4 or dims[0] != 1:
            return cls(None, None)  # refused by name later, by `fusion.fuse`
        x = random_input(dims[1], dims[2], dims[3], seed)
        expected = Session(loaded.proto).run(x)
        if not np.isfinite(expected).all():
            raise ModelError(
                "the network's output on an image of noise is infinite or not a number",
                where=str(loaded.path),
                fix="export it again from a checkpoint with finite weights",
            )
        return cls(x, expected)

    def compare(self, candidate: onnx.ModelProto) -> tuple[float, str]:
        """Largest difference over the largest output, and what is wrong where it is too large."""
        if self.x is None or self.expected is None:
            return 0.0, ""
        try:
            result = Session(candidate).run(self.x)
        except ModelError as refusal:
            return np.inf, f"made a graph that does not run ({refusal.what})"
        if result.shape != self.expected.shape:
            return np.inf, f"changed the output's shape to {list(result.shape)}"
        peak = float(np.abs(self.expected).max()) or 1.0
        error = float(np.abs(self.expected - result).max()) / peak
        if not error <= _RELATIVE_TOLERANCE:
            return error, f"changed the result by {error:.1e} of its range"
        return error, ""


def _isolated(model: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    """onnxsim's result from a child process, or None and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="vacc-simplify-") as folder:
        source, result = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        source.write_bytes(model.SerializeToString())
        command = [sys.executable, "-c", _CHILD, str(source), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return None, f"took longer than {_TIMEOUT_S} s"
        if done.returncode or not result.exists():
            stderr = done.stderr.decode(errors="replace").strip()
            last = (stderr.splitlines() or ["no message"])[-1]
            return None, f"failed (exit status {done.returncode}: {last})"
        try:
            return onnx.load_model_from_string(result.read_bytes()), ""
        except Exception:  # protobuf's DecodeError has no stable home
            return None, "wrote a damaged file"


def _inferred_canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    return canonical(onnx.shape_inference.infer_shapes(model))
