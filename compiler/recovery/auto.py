"""`calibrate_mode: auto`: the calibration method whose thresholds cost the output least.

Each candidate's thresholds are put into the float network, weights unrounded, and the squared
error of its output over the samples decides. The candidates are fixed, so that the choice depends
on the images alone, and the budget is known: one pass over the samples each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from calib.methods import KlDivergence, Max, Method, Mse, Percentile
from calib.qparams import F32
from calib.table import CalibrationTable
from compiler import qdq
from compiler.floatnet import FloatNetwork
from compiler.recovery.samples import FloatValues, Samples
from compiler.runner import Session

CANDIDATES: tuple[Method, ...] = (
    Max(),
    Percentile(0.99999),
    Percentile(0.9999),
    Percentile(0.999),
    KlDivergence(),
    Mse(),
)


def output_errors(
    net: FloatNetwork, tables: Sequence[CalibrationTable], samples: Samples
) -> list[float]:
    """Mean squared output error of quantizing the activations alone, by each table."""
    floats = FloatValues(net, [net.output])
    wanted = [floats.of(tile)[net.output] for tile in samples.tiles]
    return [_output_error(net, table, samples, wanted) for table in tables]


def _output_error(
    net: FloatNetwork, table: CalibrationTable, samples: Samples, wanted: Sequence[F32]
) -> float:
    session = Session(unrounded(net, table), optimize=False)
    errors = [
        np.mean((session.run(tile)[0].astype(np.float64) - y) ** 2)
        for tile, y in zip(samples.tiles, wanted, strict=True)
    ]
    return float(np.mean(errors))


def unrounded(net: FloatNetwork, table: CalibrationTable) -> onnx.ModelProto:
    """The network with its activations quantized, its weights not."""
    return qdq.write_mixed(net, {name: table[name].qparams for name in net.rounding_points})


def label(method: Method) -> str:
    """The method as a spec names it."""
    kept = f" {method.calibrate_range}" if isinstance(method, Percentile) else ""
    return f"{method.name}{kept}"
