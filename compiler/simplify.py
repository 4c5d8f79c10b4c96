"""Simplification with onnxsim, in a process of its own, and the numeric proof that it is sound.

onnxsim is C++: a graph that crashes it must not take the build down. Where it crashes, hangs or
changes the result, the build warns and goes on with the original graph.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from compiler import fusion
from compiler.canonical import canonical
from compiler.errors import ModelError
from compiler.model import LoadedModel
from compiler.runner import Array, Session, random_input

_TIMEOUT_S = 300
_RELATIVE_TOLERANCE = 1e-4
_MIN_MEMORY_BYTES = 4 << 30
# Where PyTorch is installed, onnxsim imports it at a cost of seconds, for what is not used here.
_CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]), int(sys.argv[3])))
sys.modules["torch"] = None
import onnx, onnxsim
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


def simplify(loaded: LoadedModel) -> SimplifiedModel:
    """Simplifies, recognises PixelShuffle, and checks the result on random input.

    The check runs original and result in ONNX Runtime on uniform noise in [0, 1) of the spec's
    shape; they may differ by 1e-4 of the largest output, the rounding noise of fused operators.

    Nothing runs before `fusion.fuse` has accepted the graph: only operators that it knows.

    Raises:
        ModelError: the original does not run, or its output on noise is not finite.
        UnsupportedOperatorError: a node that the integer semantics do not define.
    """
    candidate, why = _simplified(loaded)
    original = inferred_canonical(loaded.proto, loaded.path)
    refused = _refusal(original)
    if candidate is None and refused:
        refused.what += f" (onnxsim {why}, so the graph was read as it stands)"
        raise refused
    if candidate is not None and (refusal := _refusal(candidate)):
        if refused:
            raise refusal
        candidate, why = None, f"made a graph that cannot be built ({refusal.what})"
    sample = _Sample.of(loaded)
    if candidate is not None:
        error, why = sample.compare(candidate)
        if not why:
            return SimplifiedModel(candidate, error)
    if refused:
        refused.what += f" (onnxsim {why})"
        raise refused
    error, wrong = sample.compare(original)
    if wrong:
        raise ModelError(
            f"making the graph canonical {wrong}",
            where=str(loaded.path),
            fix="this is a bug in the workbench; report it with the network",
        )
    return SimplifiedModel(original, error, (f"onnxsim {why}; going on with the original graph",))


def supported(loaded: LoadedModel) -> onnx.ModelProto:
    """The canonical graph, simplified only where it must be; no numeric proof, nothing runs.

    Raises:
        ModelError: `fusion.fuse` refuses it.
    """
    original = inferred_canonical(loaded.proto, loaded.path)
    if _refusal(original) is None:
        return original
    simplified, why = _simplified(loaded)
    result = simplified or original
    if refusal := _refusal(result):
        refusal.what += f" (onnxsim {why})" if why else ""
        raise refusal
    return result


def _refusal(model: onnx.ModelProto) -> ModelError | None:
    """Why the integer network cannot be made of this graph, if it cannot."""
    try:
        fusion.fuse(model)
    except ModelError as refusal:
        return refusal
    return None


@dataclass(frozen=True, eq=False)
class _Sample:
    """Noise and the original's answer to it; None where the network does not take one image."""

    x: Array | None
    expected: Array | None

    @classmethod
    def of(cls, loaded: LoadedModel) -> _Sample:
        ports = loaded.proto.graph.input
        dims = [d.dim_value for d in ports[0].type.tensor_type.shape.dim] if ports else []
        if len(ports) != 1 or len(dims) != 4 or dims[0] != 1:
            return cls(None, None)  # refused by name later, by `fusion.fuse`
        x = random_input(dims[1], dims[2], dims[3], seed=0)
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


def _simplified(loaded: LoadedModel) -> tuple[onnx.ModelProto | None, str]:
    """onnxsim's result, canonical, or None and what went wrong."""
    result, why = _isolated(loaded.proto)
    try:
        return result and inferred_canonical(result, loaded.path), why
    except ModelError as error:
        return None, f"made a graph that is not valid ({error.what})"


def _isolated(model: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    """onnxsim's result from a child process, or None and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="vacc-simplify-") as folder:
        source, result = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        source.write_bytes(model.SerializeToString())
        limit = max(_MIN_MEMORY_BYTES, _physical_memory_bytes() // 2)
        command = [sys.executable, "-c", _CHILD, str(source), str(result), str(limit)]
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


def _physical_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def inferred_canonical(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """`canonical` of a graph whose shapes are inferred first.

    Raises:
        ModelError: shape inference fails.
    """
    try:
        return canonical(onnx.shape_inference.infer_shapes(model))
    except (RuntimeError, ValueError) as error:  # onnx raises several classes of these two families
        raise ModelError(
            f"the shapes of its tensors cannot be inferred: {error}",
            where=str(path),
            fix="export the network again",
        ) from error
