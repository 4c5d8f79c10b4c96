"""The build, read from top to bottom: spec -> model -> calibrate -> quantize -> compile -> verify.

The only module that calls all stages. Expensive stages are kept in the store under the digest of
everything they depend on, so a second build with one changed line re-runs only what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from calib.table import CalibrationTable
from compiler import (
    bundle,
    host,
    judges,
    measured,
    model,
    report,
    stages,
    stats,
    store,
    vendor,
    verify,
)
from compiler import target as targets
from compiler.accuracy import Accuracy
from compiler.calibrate import Observed
from compiler.engine import Engine
from compiler.errors import CalibrationWarningError
from compiler.floatnet import FloatNetwork
from compiler.fusion import fuse
from compiler.host import Host
from compiler.latency import Latency
from compiler.network import Network
from compiler.progress import Reporter
from compiler.recovery import equalize
from compiler.recovery.equalize import Equalization
from compiler.recovery.recipe import Recipe, rewritten
from compiler.scaling import scaling
from compiler.spec import SpecFile
from compiler.stages import CalibrationInputs
from compiler.stats import NetworkStats
from compiler.store import Store
from compiler.target import Target

STAGES = ("model", "calibrate", "quantize", "compile", "verify", "bundle")


@dataclass(frozen=True)
class Result:
    """What a build made; later fields are None where it was stopped before them (`until`)."""

    stats: NetworkStats
    table: CalibrationTable | None = None
    net: Network | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    library: Path | None = None
    kernels: Mapping[str, str] = field(default_factory=dict)
    bundle: Path | None = None
    fp32: onnx.ModelProto | None = None
    calibrated_on: frozenset[str] = frozenset()
    seconds: dict[str, float] = field(default_factory=dict)


def run(
    file: SpecFile,
    reporter: Reporter,
    *,
    out: Path | None = None,
    fresh: bool = False,
    until: str = STAGES[-1],
) -> Result:
    """Builds the bundle of one spec.

    Args:
        out: parent directory of the bundle, instead of the spec's `workspace.path`.
        fresh: ignore stored results of earlier builds.
        until: the last stage to run.
    Raises:
        WorkbenchError: any of the family; nothing half-written is left.
    """
    site, clock = _site(file, reporter, out, fresh), measured.Clock()
    with clock("model"):
        loaded = _model(site)
    result = Result(loaded.counts, fp32=loaded.fp32, seconds=clock.seconds)
    if until == "model":
        return result
    with clock("calibrate"):
        calibration = _calibrate(site, loaded)
    seen = frozenset(calibration.observed.digests)
    result = replace(result, table=calibration.table, calibrated_on=seen)
    if until == "calibrate":
        return result
    with clock("quantize"):
        net, table = _quantize(site, calibration)
    result = replace(result, net=net, table=table)
    if until == "quantize":
        return result
    with clock("compile"):
        engine = Engine(file.spec, loaded.fp32, net, site.host, site.store, seen)
        library = _compile(site, engine)
    result = replace(result, library=library, kernels=engine.kernels())
    if until == "compile":
        return result
    with clock("verify"):
        accuracy, speed = _verify(site, engine)
    result = replace(result, accuracy=accuracy, latency=speed)
    if until == "verify":
        return result
    with clock("bundle"):
        folder = _bundle(site, loaded, calibration, engine, result)
    return replace(result, bundle=folder)


@dataclass(frozen=True)
class _Site:
    """What every stage may look at: the spec, and where and for whom it is built."""

    file: SpecFile
    target: Target
    host: Host
    out: Path
    store: Store
    reporter: Reporter


@dataclass(frozen=True)
class _Model:
    """The simplified graph, read as fused chains, and counted."""

    fp32: onnx.ModelProto
    floats: FloatNetwork
    counts: NetworkStats


@dataclass(frozen=True)
class _Calibration:
    """The float network as it will be quantized, and what calibration found on it.

    Attributes:
        plain: the network before its channels were scaled.
    """

    inputs: CalibrationInputs
    recipe: Recipe
    plain: FloatNetwork
    scales: Equalization
    floats: FloatNetwork
    observed: Observed
    table: CalibrationTable


def _site(file: SpecFile, reporter: Reporter, out: Path | None, fresh: bool) -> _Site:
    """Everything that can be refused before any work begins."""
    wish = file.spec.backend.compile.host
    target = targets.load(file)
    judges.require(file, target)
    machine = host.detect(wish.isa, wish.threads)
    out = out or Path(file.spec.workspace.path)
    store.require_writable(out)
    _warn(reporter, file.warnings)
    return _Site(file, target, machine, out, Store(out / ".store", fresh), reporter)


def _model(site: _Site) -> _Model:
    frontend, reporter = site.file.spec.frontend, site.reporter
    reporter.stage(f"model      {frontend.checkpoint}")
    loaded = model.load(stages.onnx_file(frontend, site.store), frontend.shapes)
    with reporter.busy("simplifying the graph"):
        fp32 = stages.with_head(stages.simplified(loaded, site.store, reporter), site.file)
    floats = fuse(fp32)
    stages.require_operators(fp32, site.target)
    stages.require_layers(site.file, floats)
    return _Model(fp32, floats, stats.network_stats(floats, frontend.size))


def _calibrate(site: _Site, loaded: _Model) -> _Calibration:
    reporter, wish = site.reporter, site.file.spec.backend.quantize
    photos = stages.photo_set(site.file, scaling(loaded.floats).rate)
    _warn(reporter, photos.warnings)
    reporter.stage(f"calibrate  {len(photos.photos)} images of {photos.source}")
    inputs = CalibrationInputs(site.file, photos, site.store, site.host.threads, reporter)
    recipe = stages.recipe(wish, loaded.floats, symmetric=site.target.symmetric)
    plain = rewritten(loaded.floats, recipe, inputs.byte_values)
    scales = stages.channel_scales(inputs, plain, recipe)
    floats = equalize.equalize(plain, scales.factors)
    observed = stages.observe(inputs, floats)
    table, doubts = stages.thresholds(inputs, floats, observed, symmetric=site.target.symmetric)
    if doubts and wish.strict:
        raise CalibrationWarningError(
            "; ".join(doubts), where="calibration", fix="use more images, or strict: false"
        )
    _warn(reporter, doubts)
    return _Calibration(inputs, recipe, plain, scales, floats, observed, table)


def _quantize(site: _Site, c: _Calibration) -> tuple[Network, CalibrationTable]:
    method = site.file.spec.backend.quantize.calibrate_mode
    site.reporter.stage(f"quantize   {method}, {site.target.activations} activations")
    return stages.integer(c.inputs, c.floats, c.table, c.observed, c.recipe)


def _compile(site: _Site, engine: Engine) -> Path:
    """The library of the spec's shape; its portable twin is compiled beside it."""
    site.reporter.stage(f"compile    {site.host.isa}, {site.host.threads} threads")
    with site.reporter.busy("compiling the library"):
        return engine.compile_main()


def _verify(site: _Site, engine: Engine) -> tuple[Accuracy, Latency]:
    wish = site.file.spec.verify
    site.reporter.stage(f"verify     protocol {wish.protocol}")
    accuracy, doubts = verify.measure_engine(engine, wish, site.reporter)
    _warn(site.reporter, doubts)
    return accuracy, measured.library_latency(engine)


def _bundle(site: _Site, loaded: _Model, c: _Calibration, engine: Engine, result: Result) -> Path:
    """Writes the bundle under its final name, complete or not at all."""
    folder = site.out / site.file.spec.name
    for_vendor, doubts = vendor.texts(site.file.spec, engine.main_size)
    _warn(site.reporter, doubts)
    texts = {**_texts(loaded, c, result), **for_vendor}
    with store.atomic(folder) as temporary, store.storage(folder):
        manifest = bundle.write(temporary, engine, texts=texts, origin=_origin(site, c))
        with site.reporter.busy("writing the report"):
            timed = _measured(site, loaded, c, engine, result, manifest)
        bundle.write_measured(temporary, timed)
    return folder


def _texts(loaded: _Model, c: _Calibration, result: Result) -> dict[str, str]:
    """File name to content: what the stages found, as the bundle keeps it."""
    assert result.table is not None
    assert result.accuracy is not None
    network = loaded.counts.to_json() | {"kernels": dict(result.kernels)}
    photos = c.inputs.photos
    calibration = {"source": photos.source, "images": len(photos.photos)}
    return {
        "network.json": store.json_text(network),
        "calibration.json": result.table.to_json(),
        "equalization.json": equalize.to_json(c.scales),
        "accuracy.json": store.json_text(result.accuracy.to_json() | {"calibration": calibration}),
        "accuracy.csv": result.accuracy.to_csv(),
    }


def _origin(site: _Site, c: _Calibration) -> dict[str, Any]:
    """What the manifest says of the network and the images that went in."""
    checkpoint = site.file.spec.frontend.checkpoint
    return {
        "model": {"path": checkpoint, "sha256": store.file_sha256(Path(checkpoint))},
        "calibration": {"source": c.inputs.photos.source, "images": list(c.observed.digests)},
    }


def _measured(
    site: _Site,
    loaded: _Model,
    c: _Calibration,
    engine: Engine,
    result: Result,
    manifest: Mapping[str, Any],
) -> dict[str, str]:
    """File name to content: the report, and what depends on the clock."""
    assert result.table is not None
    assert result.accuracy is not None
    assert result.latency is not None
    figures = measured.latency_figures(engine, result.latency.to_json(), {})
    shown = report.Build(
        engine=engine,
        target=site.target,
        floats=c.floats,
        plain=c.plain,
        factors=c.scales.factors,
        counts=loaded.counts,
        observed=c.observed,
        table=result.table,
        photos=c.inputs.photos.photos,
        ops=c.inputs.ops,
        accuracy=result.accuracy,
        figures=figures,
        manifest=manifest,
    )
    return {
        "report.html": report.page(report.collect(shown)),
        "latency.json": store.json_text(figures),
        "timing.json": measured.timing_json(result.seconds),
    }


def _warn(reporter: Reporter, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        reporter.warn(warning)
