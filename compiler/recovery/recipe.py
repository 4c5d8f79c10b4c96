"""How a float network becomes an integer one: the steps that a spec's `quantize:` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from calib.histogram import Histogram
from calib.qparams import F32
from calib.table import CalibrationTable
from compiler import qdq
from compiler.floatnet import FloatNetwork
from compiler.network import Network
from compiler.recovery import centre, gptq, scales, sensitivity, split, wide
from compiler.recovery.equalize import Equalization
from compiler.recovery.gptq import Rounded
from compiler.recovery.samples import Samples
from compiler.recovery.search import search
from compiler.recovery.wanted import Wanted, unrounded

GPTQ_LEAVES = 0.02  # of the error of rounding to nearest, measured on Bicubic++ 2x and 3x


@dataclass(frozen=True)
class Recipe:
    """The part of `backend.quantize` beyond the thresholds, and the target's kind of activations.

    Attributes:
        symmetric: activations have no zero point.
        split_residuals: residuals have tensors of their own where that is cheap (`split`).
        centre_image: 8-bit images are held without loss (`centre`).
        residual_bits: 16 gives residuals a low part where that is cheap (`lowparts`).
        wide_layers: names of convolutions that read 16 bits (`wide`).
        search: `output` refines the thresholds by the output error.
    """

    symmetric: bool
    per_channel: bool = True
    power2: bool = False
    equalize: bool = False
    split_residuals: bool = False
    centre_image: bool = False
    residual_bits: Literal[8, 16] = 8
    wide_layers: tuple[str, ...] = ()
    rounding: Literal["nearest", "gptq"] = "nearest"
    search: Literal["none", "output"] = "none"
    seed: int = 0

    @property
    def needs_samples(self) -> bool:
        """Whether any step looks at images beyond the histograms."""
        return self.equalize or self.rounding == "gptq" or self.search == "output"


def rewritten(net: FloatNetwork, recipe: Recipe, byte_values: F32 | None) -> FloatNetwork:
    """The same function, in the operators that the recipe asks for.

    Args:
        byte_values: what pre-processing makes of every byte (`calib.images.byte_values`).
    """
    if recipe.centre_image:
        net = centre.centred(net, byte_values, symmetric=recipe.symmetric)
    if recipe.split_residuals:
        net = split.split_residuals(net)
    if recipe.residual_bits == 16:
        net = split.with_low_parts(net)
    return wide.with_wide_layers(net, recipe.wide_layers)


def equalization(net: FloatNetwork, samples: Samples, recipe: Recipe) -> Equalization:
    """The channel scales of least predicted output error (see `scales`)."""
    shown = sensitivity.measure(net, samples, seed=recipe.seed)
    share = GPTQ_LEAVES if recipe.rounding == "gptq" else 1.0
    return scales.choose(net, samples, shown, symmetric=recipe.symmetric, weight_error_share=share)


def integer_network(
    net: FloatNetwork,
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    samples: Samples,
    recipe: Recipe,
) -> tuple[Network, CalibrationTable]:
    """Rounds the weights and searches the thresholds.

    The thresholds are searched twice: before the weights are rounded, which would be rounded to
    serve the thresholds that they are given and so hold the search where it began, and after it.

    Args:
        net: equalized already, where the recipe asks for it; `table` and `histograms` are its own.
    Returns:
        The integer network and the table that it uses.
    """
    wanted = Wanted.of(net, samples) if recipe.search == "output" else None

    def searched(
        model: Callable[[CalibrationTable], onnx.ModelProto], start: CalibrationTable
    ) -> CalibrationTable:
        if wanted is None:
            return start
        return search(net, model, start, histograms, wanted, symmetric=recipe.symmetric)

    table = searched(lambda t: unrounded(net, t), table)
    rounded = _rounded(net, table, samples, recipe)
    final = searched(lambda t: qdq.write(rounded.network(t)), table)
    if final.to_json() != table.to_json():
        rounded = _rounded(net, final, samples, recipe)
    return rounded.network(final), final


def _rounded(
    net: FloatNetwork, table: CalibrationTable, samples: Samples, recipe: Recipe
) -> Rounded:
    if recipe.rounding == "gptq":
        return gptq.gptq(net, table, samples, per_channel=recipe.per_channel, power2=recipe.power2)
    return gptq.nearest(net, per_channel=recipe.per_channel, power2=recipe.power2)
