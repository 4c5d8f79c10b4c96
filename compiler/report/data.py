"""Everything that the report shows, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calib.images import ProcessOp
from calib.qparams import F32
from calib.table import CalibrationTable
from compiler import bundle, cost
from compiler.accuracy import Accuracy
from compiler.calibrate import Observed
from compiler.cost import Check, Cost
from compiler.dataset import Photo
from compiler.engine import Engine
from compiler.floatnet import FloatNetwork
from compiler.recovery import samples
from compiler.recovery.equalize import Factors
from compiler.report import layers
from compiler.report.layers import ChannelRanges, LayerRow, TensorRow
from compiler.report.speed import Speed
from compiler.scaling import pad_tensor
from compiler.schema import Spec
from compiler.stats import NetworkStats, network_stats
from compiler.target import Target

PROBE = 4  # calibration images that give a tile each, for the noise of every layer


@dataclass(frozen=True)
class Build:
    """What a finished build has to show, as its stages left it.

    Attributes:
        floats: the float network that was quantized, after equalization.
        photos, ops: the calibration images and their pre-processing.
        plain: the same before equalization, and `factors` what lies between the two.
        figures: the object of measured/latency.json.
        manifest: of the bundle.
    """

    engine: Engine
    target: Target
    floats: FloatNetwork
    plain: FloatNetwork
    factors: Factors
    counts: NetworkStats
    observed: Observed
    table: CalibrationTable
    photos: Sequence[Photo]
    ops: Sequence[ProcessOp]
    accuracy: Accuracy
    figures: Mapping[str, Any]
    manifest: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ReportData:
    """What the page shows.

    Attributes:
        probe: how many inputs the noise of the layers was measured on.
    """

    spec: Spec
    spec_yaml: str
    accuracy: Accuracy
    speed: Speed
    counts: NetworkStats
    floats: FloatNetwork
    layers: tuple[LayerRow, ...]
    tensors: tuple[TensorRow, ...]
    weights: tuple[ChannelRanges, ...]
    probe: int
    cost: Cost
    checks: tuple[Check, ...]
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the build."""
        return self.spec.name

    @property
    def equalized(self) -> bool:
        """Whether equalization changed any range."""
        return any(row.changed for row in self.weights)

    @property
    def shape(self) -> str:
        """The input's shape, 1x3x1080x1920."""
        return "x".join(map(str, self.spec.frontend.dims))


def collect(build: Build) -> ReportData:
    """Measures what is missing (the noise of every layer, the alternatives) and puts it together.

    Costs a second or two: histograms are at hand, and the golden model runs on a few small tiles.
    """
    spec, target = build.engine.spec, build.target
    floats, observed = build.floats, build.observed
    histograms = observed.histograms
    tiles = _tiles(build)
    noise = layers.sqnr_db(floats, build.engine.net, tiles)
    sensitivity = layers.sensitivities(floats, build.engine.net, tiles)
    return ReportData(
        spec=spec,
        spec_yaml=bundle.dump_spec(spec),
        accuracy=build.accuracy,
        speed=Speed.of(build.figures, build.manifest["host"]),
        counts=build.counts,
        floats=floats,
        layers=layers.layer_rows(
            floats,
            network_stats(floats, build.engine.main_size),  # recovery may have added layers
            build.table,
            histograms,
            noise,
            sensitivity,
        ),
        tensors=layers.tensor_rows(
            floats,
            build.table,
            histograms,
            layers.channel_ranges(floats, observed.ranges, build.factors),
            symmetric=target.symmetric,
            calibrate_range=spec.backend.quantize.calibrate_range,
        ),
        weights=layers.weight_rows(floats, build.plain),
        probe=len(tiles),
        cost=cost.of_spec(floats, spec, target.hardware, target.name),
        checks=cost.checks(target.hardware),
        manifest=build.manifest,
    )


def _tiles(build: Build) -> list[F32]:
    chosen = samples.sample(
        build.photos[:PROBE],
        build.ops,
        seed=build.engine.spec.backend.quantize.seed,
        pixels=PROBE * samples.TILE**2,
    )
    return [pad_tensor(tile, build.engine.scaling) for tile in chosen.tiles[:PROBE]]
