"""ONNX Runtime: runs float and QDQ graphs. The only module that imports it, at first use."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compiler.errors import ModelError, line_of

Array = NDArray[Any]
_SEVERITY_FATAL = 4  # errors reach the caller as exceptions, not on standard error


class Session:
    """One ONNX Runtime session with a fixed number of threads.

    Args:
        model: any ONNX model; not modified.
        outputs: tensors to return beside the graph's outputs (activations, by name).
        optimize: graph optimizations. Off for QDQ models: the optimized int8 path of ONNX Runtime
            saturates 16-bit sums on AVX2 without VNNI.
        threads: threads of one operator; fixed, so that results repeat.
    Raises:
        ModelError: ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        outputs: Sequence[str] = (),
        *,
        optimize: bool = True,
        threads: int = 1,
    ) -> None:
        import onnxruntime as ort  # slow to import: not for --help

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SEVERITY_FATAL
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        )
        try:
            self._session = ort.InferenceSession(
                _with_outputs(model, outputs).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ORT raises its own, undocumented classes
            raise ModelError(
                f"ONNX Runtime cannot load the network: {line_of(error)}",
                where=f"graph {model.graph.name}",
                fix="check the file with onnx.checker, or export it again",
            ) from error
        self._name = model.graph.name
        self._inputs = [i.name for i in self._session.get_inputs()]

    def run(self, *inputs: Array) -> Array:
        """The first output for inputs in graph order."""
        result: Array = self.run_all(dict(zip(self._inputs, inputs, strict=True)))[0]
        return result

    def run_all(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs, the graph's own first.

        Raises:
            ModelError: ONNX Runtime fails on this input, for example for its shape.
        """
        try:
            results: list[Array] = self._session.run(None, dict(feeds))
        except Exception as error:
            shapes = {name: value.shape for name, value in feeds.items()}
            raise ModelError(
                f"ONNX Runtime fails on inputs of shape {shapes}: {line_of(error)}",
                where=f"graph {self._name}",
                fix="check frontend.shape against the network",
            ) from error
        return results


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    if not names:
        return model
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {o.name for o in model.graph.output}
    extended.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    return extended


class _Images:
    """Calibration inputs, one after another, as ONNX Runtime's quantizer asks for them."""

    def __init__(self, name: str, images: Sequence[Array]) -> None:
        self._feeds = iter([{name: x} for x in images])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what another tool prints, logs and warns of; its exceptions pass."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def quantize_static(
    model: onnx.ModelProto, images: Sequence[Array], method: str, *, symmetric: bool
) -> onnx.ModelProto:
    """ONNX Runtime's own int8 QDQ model, per channel, for comparison.

    Args:
        images: calibration inputs, float32 [1, C, H, W] of one size: its histograms need that.
        method: `MinMax`, `Percentile` or `Entropy`.
        symmetric: activations without zero points.
    """
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder, quiet():
        paths = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, paths[0])
        quantization.quantize_static(
            paths[0],
            paths[1],
            _Images(model.graph.input[0].name, images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options={"ActivationSymmetric": symmetric},
        )
        return onnx.load(paths[1])


def random_input(channels: int, height: int, width: int, seed: int) -> NDArray[np.float32]:
    """Uniform float32 [1, channels, height, width] in [0, 1)."""
    rng = np.random.default_rng(seed)
    return rng.random((1, channels, height, width), dtype=np.float32)
