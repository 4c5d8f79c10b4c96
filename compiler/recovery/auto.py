"""`calibrate_mode: auto`: the calibration method whose thresholds cost the output least.

Each candidate's thresholds are put into the float network, weights unrounded, and the squared
error of its output over the samples decides. The candidates are fixed, so that the choice depends
on the images alone, and the budget is known: one pass over the samples each.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib.methods import KlDivergence, Max, Method, Mse, Percentile
from calib.table import CalibrationTable
from compiler.floatnet import FloatNetwork
from compiler.recovery.samples import Samples
from compiler.recovery.wanted import Wanted, unrounded

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
    wanted = Wanted.of(net, samples)
    return [wanted.error(unrounded(net, table)) for table in tables]


def label(method: Method) -> str:
    """The method as a spec names it."""
    kept = f" {method.calibrate_range}" if isinstance(method, Percentile) else ""
    return f"{method.name}{kept}"
