"""How a float network becomes an integer one: the steps that a spec's `quantize:` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
from compiler.recovery.search import FIRST, LAST, Landscape
from compiler.recovery.wanted import unrounded

_DEEPER = 0.95  # of two valleys' errors: closer ones came out alike with their weights rounded
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


@dataclass(frozen=True, eq=False)
class Integers:
    """An integer network and the table that it uses, the derived ranges among its own."""

    network: Network
    table: CalibrationTable


def integer_network(
    net: FloatNetwork,
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    samples: Samples,
    recipe: Recipe,
) -> Integers:
    """Rounds the weights and searches the thresholds.

    The search goes down from where nothing is clipped and from the method's thresholds. Where the
    method's valley is much the deeper (`_DEEPER`), both are followed to the end, and the less final
    error decides; else the other is. So no method ends with a greater error than `max`, and most
    end the same: Bicubic++ 2x with `mse` lost 0.0025 dB more than with `max` on Set5 while the
    descent from the better start alone was followed, which rounding made the worse one.

    Args:
        net: equalized already, where the recipe asks for it; `table` and `histograms` are its own.
    """
    if recipe.search == "none":
        return Integers(_rounded(net, table, samples, recipe).network(table), table)
    land = Landscape.of(net, histograms, samples, symmetric=recipe.symmetric)
    unclipped, own = land.unclipped(table), land.whole(table)
    valley, depth = land.descend(lambda t: unrounded(net, t), unclipped, FIRST)
    found = _settled(land, valley, samples, recipe)
    if own == unclipped:
        return found
    valley, own_depth = land.descend(lambda t: unrounded(net, t), own, FIRST)
    if own_depth >= _DEEPER * depth:
        return found
    other = _settled(land, valley, samples, recipe)
    return min(found, other, key=lambda i: land.wanted.error(qdq.write(i.network)))


def _settled(
    land: Landscape, valley: CalibrationTable, samples: Samples, recipe: Recipe
) -> Integers:
    """Weights rounded for the thresholds, and thresholds searched again for the weights.

    The first search was with weights not rounded: GPTQ rounds them to serve the thresholds that it
    is given, and so holds a search where it began, but for fine steps.
    """
    rounded = _rounded(land.net, valley, samples, recipe)
    table, _ = land.descend(lambda t: qdq.write(rounded.network(t)), valley, LAST)
    if table != valley:
        rounded = _rounded(land.net, table, samples, recipe)
    return Integers(rounded.network(table), table)


def _rounded(
    net: FloatNetwork, table: CalibrationTable, samples: Samples, recipe: Recipe
) -> Rounded:
    if recipe.rounding == "gptq":
        return gptq.gptq(net, table, samples, per_channel=recipe.per_channel, power2=recipe.power2)
    return gptq.nearest(net, per_channel=recipe.per_channel, power2=recipe.power2)
