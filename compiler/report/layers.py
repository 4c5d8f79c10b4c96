"""Per layer: ranges of activations and weights, what is clipped, and the noise of int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calib import table as calib_table
from calib.histogram import Histogram, Range
from calib.methods import METHODS, Mse, method
from calib.qparams import F32, F64
from calib.table import CalibrationTable, TensorCalibration
from compiler import mixed, reference
from compiler.float_values import FloatValues
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import Network
from compiler.recovery.equalize import Factors
from compiler.stats import NetworkStats


@dataclass(frozen=True)
class LayerRow:
    """One convolution.

    Attributes:
        calibration: of its output; None where the output stays float.
        weight_low, weight_high: range of its float weights.
        spread: largest over smallest of the channels' weight ranges; 1 is even.
        sqnr_db: the int8 network's output of this layer against the float network's, signal over
            error, with all errors of the layers before; None where nothing differs.
        own_sqnr_db: of rounding this output alone, by its histogram.
        sensitivity: error at the network's output where this layer alone is quantized, weights and
            output: root of its mean square, in 1/255 of the output's unit.
    """

    name: str
    output: tuple[int, int, int]
    kernel: tuple[int, int]
    params: int
    macs: int
    calibration: TensorCalibration | None
    weight_low: float
    weight_high: float
    spread: float
    sqnr_db: float | None
    own_sqnr_db: float | None
    sensitivity: float


@dataclass(frozen=True)
class Choice:
    """The range that one calibration method takes for a tensor."""

    method: str
    low: float
    high: float
    clipped_fraction: float


@dataclass(frozen=True, eq=False)
class ChannelRanges:
    """Smallest and largest value of every channel, [C] each: activations, or weights by output.

    Attributes:
        low_before, high_before: the same before equalization.
    """

    name: str
    low: F32
    high: F32
    low_before: F32
    high_before: F32

    @property
    def changed(self) -> bool:
        """Whether equalization changed a range."""
        same = np.array_equal(self.low, self.low_before)
        return not (same and np.array_equal(self.high, self.high_before))


@dataclass(frozen=True, eq=False)
class TensorRow:
    """One rounding point: its values over all calibration images, and the ranges for them.

    Attributes:
        sqnr_db: signal over the error of rounding and clipping this tensor alone.
    """

    name: str
    histogram: Histogram
    chosen: Choice
    alternatives: tuple[Choice, ...]
    channels: ChannelRanges
    sqnr_db: float | None

    @property
    def refined(self) -> bool:
        """Whether the range is no longer what its method chose."""
        known = {choice.method for choice in self.alternatives}
        return self.chosen.method in known and self.chosen not in self.alternatives


def layer_rows(
    floats: FloatNetwork,
    counts: NetworkStats,
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    sqnr: Mapping[str, float | None],
    sensitivity: Mapping[str, float],
) -> tuple[LayerRow, ...]:
    """One row a convolution, in network order."""
    rows = []
    for conv, count in zip(floats.convs, counts.layers, strict=True):
        low, high = _weight_ends(conv)
        peaks = np.maximum(-low, high)
        known = peaks[peaks > 0]
        rounded = conv.output not in floats.float_tensors
        rows.append(
            LayerRow(
                name=conv.name,
                output=count.output,
                kernel=count.kernel,
                params=count.params,
                macs=count.macs,
                calibration=table[conv.output] if rounded else None,
                weight_low=float(low.min()),
                weight_high=float(high.max()),
                spread=float(known.max() / known.min()) if known.size else 1.0,
                sqnr_db=sqnr.get(conv.output),
                own_sqnr_db=(
                    own_sqnr_db(histograms[conv.output], table[conv.output]) if rounded else None
                ),
                sensitivity=sensitivity[conv.name],
            )
        )
    return tuple(rows)


def tensor_rows(
    floats: FloatNetwork,
    table: CalibrationTable,
    histograms: Mapping[str, Histogram],
    channels: Mapping[str, ChannelRanges],
    *,
    symmetric: bool,
    calibrate_range: float,
) -> tuple[TensorRow, ...]:
    """One row a rounding point, with the ranges that every method would have taken."""
    return tuple(
        TensorRow(
            name,
            histograms[name],
            _choice(table[name]),
            tuple(
                _choice(
                    calib_table.calibrate(histograms[name], method(m, calibrate_range), symmetric)
                )
                for m in METHODS
            ),
            channels[name],
            own_sqnr_db(histograms[name], table[name]),
        )
        for name in floats.rounding_points
    )


def _choice(found: TensorCalibration) -> Choice:
    return Choice(found.method, found.low, found.high, found.clipped_fraction)


def weight_rows(floats: FloatNetwork, plain: FloatNetwork) -> tuple[ChannelRanges, ...]:
    """The weight ranges of every convolution, after and before equalization."""
    pairs = zip(floats.convs, plain.convs, strict=True)
    return tuple(
        ChannelRanges(conv.name, *_weight_ends(conv), *_weight_ends(before))
        for conv, before in pairs
    )


def _weight_ends(conv: FloatConv) -> tuple[F32, F32]:
    """Smallest and largest weight of every output channel, [O] each."""
    flat = conv.weight.reshape(len(conv.weight), -1)
    return flat.min(axis=1), flat.max(axis=1)


def channel_ranges(
    floats: FloatNetwork, ranges: Mapping[str, Range], factors: Factors
) -> dict[str, ChannelRanges]:
    """The channels of every rounding point; before equalization each was 1 / t of it."""
    found = {}
    for name in floats.rounding_points:
        seen, t = ranges[name], factors.get(name, np.float32(1))
        found[name] = ChannelRanges(name, seen.min, seen.max, seen.min / t, seen.max / t)
    return found


def own_sqnr_db(hist: Histogram, found: TensorCalibration) -> float | None:
    """Signal over the error of rounding and clipping one tensor, from its histogram."""
    if hist.limit == 0 or hist.total == 0:
        return None
    return _db(hist.mean_square, Mse.error(hist, found.qparams))


def sqnr_db(floats: FloatNetwork, net: Network, tiles: Sequence[F32]) -> dict[str, float | None]:
    """Signal over error of every int8 and output tensor of a convolution, over some inputs.

    Args:
        tiles: float32 [1, C, h, w] each, of sizes that fit the network.
    """
    names = [conv.output for conv in net.convs]
    values = FloatValues(floats, names)
    signal, error = (dict.fromkeys(names, 0.0) for _ in (0, 1))
    for tile in tiles:
        exact = values.of(tile)
        for name, raw in reference.trace(net, tile):
            if name in exact:
                wanted = exact[name].astype(np.float64)
                signal[name] += float(np.square(wanted).sum())
                error[name] += float(np.square(_real(net, name, raw) - wanted).sum())
    return {name: _db(signal[name], error[name]) for name in names}


def sensitivities(floats: FloatNetwork, net: Network, tiles: Sequence[F32]) -> dict[str, float]:
    """What quantizing each convolution alone, weights and output, adds to the network's output.

    Args:
        tiles: float32 [1, C, h, w] each, of sizes that fit the network.
    Returns:
        layer to the root mean square of the output error over all tiles, in 1/255.
    """
    exact = [mixed.session(floats, net, (), ()).run(tile).astype(np.float64) for tile in tiles]
    found = {}
    for conv in floats.convs:
        alone = mixed.session(floats, net, (conv.output,), (conv.name,))
        pairs = zip(tiles, exact, strict=True)
        squares = np.concatenate([np.square(alone.run(x) - y).ravel() for x, y in pairs])
        found[conv.name] = float(255 * np.sqrt(squares.mean()))
    return found


def _real(net: Network, name: str, raw: reference.Array) -> F64:
    tensor = net.tensors[name]
    values: F64 = raw.astype(np.float64)
    return (values - tensor.q.zero_point) * tensor.q.scale if tensor.kind == "int8" else values


def _db(signal: float, error: float) -> float | None:
    return float(10 * np.log10(signal / error)) if signal > 0 and error > 0 else None
