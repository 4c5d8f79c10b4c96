"""How a float network becomes an integer one: the steps that a spec's `quantize:` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from calib.histogram import Histogram
from calib.table import CalibrationTable
from compiler.floatnet import FloatNetwork
from compiler.network import Network
from compiler.recovery import equalize, gptq, sensitivity
from compiler.recovery.equalize import Equalization
from compiler.recovery.gptq import Rounded
from compiler.recovery.samples import Samples
from compiler.recovery.search import search

GPTQ_LEAVES = 0.02  # of the error of rounding to nearest, measured on Bicubic++ 2x and 3x


@dataclass(frozen=True)
class Recipe:
    """The part of `backend.quantize` beyond the thresholds, and the target's kind of activations.

    Attributes:
        symmetric: activations have no zero point.
        split_residuals: residuals have tensors of their own where that is cheap (`split`).
        search: `output` refines the thresholds by the output error.
    """

    symmetric: bool
    per_channel: bool = True
    power2: bool = False
    equalize: bool = False
    split_residuals: bool = False
    rounding: Literal["nearest", "gptq"] = "nearest"
    search: Literal["none", "output"] = "none"
    seed: int = 0

    @property
    def needs_samples(self) -> bool:
        """Whether any step looks at images beyond the histograms."""
        return self.equalize or self.rounding == "gptq" or self.search == "output"


def equalization(net: FloatNetwork, samples: Samples, recipe: Recipe) -> Equalization:
    """The channel scales of least predicted output error (see `equalize`)."""
    shown = sensitivity.measure(net, samples, seed=recipe.seed)
    share = GPTQ_LEAVES if recipe.rounding == "gptq" else 1.0
    return equalize.choose(
        net, samples, shown, symmetric=recipe.symmetric, weight_error_share=share
    )


def integer_network(
    net: FloatNetwork,
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    samples: Samples,
    recipe: Recipe,
) -> tuple[Network, CalibrationTable]:
    """Rounds the weights, searches the thresholds, and rounds again for those found.

    Args:
        net: equalized already, where the recipe asks for it; `table` and `histograms` are its own.
    Returns:
        The integer network and the table that it uses.
    """
    rounded = _rounded(net, table, samples, recipe)
    if recipe.search == "output":
        table = search(rounded, table, histograms, samples, symmetric=recipe.symmetric)
        rounded = _rounded(net, table, samples, recipe)
    return rounded.network(table), table


def _rounded(
    net: FloatNetwork, table: CalibrationTable, samples: Samples, recipe: Recipe
) -> Rounded:
    if recipe.rounding == "gptq":
        return gptq.gptq(net, table, samples, per_channel=recipe.per_channel, power2=recipe.power2)
    return gptq.nearest(net, per_channel=recipe.per_channel, power2=recipe.power2)
