"""The build, read from top to bottom: spec -> model -> calibrate -> quantize -> compile -> verify.

The only module that calls all stages. Expensive stages are kept in the store under the digest of
everything they depend on, so a second build with one changed line re-runs only what follows.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calib.images import warnings as process_op_warnings
from calib.table import CalibrationTable
from compiler import (
    bundle,
    fusion,
    host,
    latency,
    model,
    report,
    runner,
    scaling,
    stages,
    stats,
    store,
    vendor,
    verify,
)
from compiler import target as targets
from compiler.accuracy import Accuracy
from compiler.calibrate import Observed
from compiler.dataset import PhotoSet
from compiler.engine import Engine
from compiler.errors import CalibrationWarningError, SpecError
from compiler.floatnet import FloatNetwork
from compiler.host import Host
from compiler.latency import Latency
from compiler.network import Network
from compiler.progress import Reporter
from compiler.recovery import equalize
from compiler.recovery.equalize import Equalization
from compiler.recovery.recipe import Recipe
from compiler.recovery.split import split_residuals
from compiler.spec import SpecFile
from compiler.stages import CalibrationInputs
from compiler.stats import NetworkStats
from compiler.store import Store
from compiler.target import Target

STAGES = ("model", "calibrate", "quantize", "compile", "verify", "bundle")
BENCH_RUNS = 15


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
    site, clock = _site(file, reporter, out, fresh), _Clock()
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
    targets.require(file, target)
    machine = host.detect(wish.isa, wish.threads)
    out = out or Path(file.spec.workspace.path)
    store.require_writable(out)
    _warn(reporter, _spec_warnings(file))
    return _Site(file, target, machine, out, Store(out / ".store", fresh), reporter)


def _model(site: _Site) -> _Model:
    frontend, reporter = site.file.spec.frontend, site.reporter
    reporter.stage(f"model      {frontend.checkpoint}")
    shape = {name: tuple(dims) for name, dims in frontend.shape.items()}
    loaded = model.load(stages.onnx_file(frontend, shape, site.store), shape)
    with reporter.busy("simplifying the graph"):
        fp32 = stages.with_head(stages.simplified(loaded, site.store, reporter), site.file)
    floats = fusion.fuse(fp32)
    stages.require_operators(fp32, site.target)
    return _Model(fp32, floats, stats.network_stats(floats, _main_size(site.file)))


def _calibrate(site: _Site, loaded: _Model) -> _Calibration:
    reporter, wish = site.reporter, site.file.spec.backend.quantize
    photos = stages.photo_set(site.file, scaling.scaling(loaded.floats).rate)
    _warn(reporter, photos.warnings)
    reporter.stage(f"calibrate  {len(photos.photos)} images of {photos.source}")
    inputs = CalibrationInputs(site.file, photos, site.store, site.host.threads, reporter)
    recipe = stages.recipe(wish, site.target)
    plain = split_residuals(loaded.floats) if recipe.split_residuals else loaded.floats
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
    wish = site.file.spec.backend.quantize
    site.reporter.stage(f"quantize   {wish.calibrate_mode}, {site.target.activations} activations")
    return stages.integer(c.inputs, c.floats, c.table, c.observed, c.recipe)


def _compile(site: _Site, engine: Engine) -> Path:
    """The library of the spec's shape; its portable twin is compiled too."""
    site.reporter.stage(f"compile    {site.host.isa}, {site.host.threads} threads")
    with site.reporter.busy("compiling the library"):
        library = engine.library_path(engine.main_net, engine.main_size)
        if engine.portable:
            engine.portable.library_path(engine.main_net, engine.main_size)
    return library


def _verify(site: _Site, engine: Engine) -> tuple[Accuracy, Latency]:
    wish = site.file.spec.verify
    site.reporter.stage(f"verify     protocol {wish.protocol}")
    accuracy, doubts = verify.measure_engine(engine, wish, site.reporter)
    _warn(site.reporter, doubts)
    return accuracy, _latency(engine)


def _bundle(site: _Site, loaded: _Model, c: _Calibration, engine: Engine, result: Result) -> Path:
    """Writes the bundle under its final name, complete or not at all."""
    assert result.table is not None
    assert result.accuracy is not None
    assert result.latency is not None
    checkpoint, photos = site.file.spec.frontend.checkpoint, c.inputs.photos
    folder = site.out / site.file.spec.name
    for_vendor, doubts = vendor.texts(site.file.spec, engine.main_size)
    _warn(site.reporter, doubts)
    with store.atomic(folder) as temporary, store.storage(folder):
        manifest = bundle.write(
            temporary,
            engine,
            texts={
                "network.json": _network_json(loaded.counts, result.kernels),
                "calibration.json": result.table.to_json(),
                "equalization.json": equalize.to_json(c.scales),
                "accuracy.json": _accuracy_json(result.accuracy, photos),
                "accuracy.csv": result.accuracy.to_csv(),
                **for_vendor,
            },
            origin={
                "model": {"path": checkpoint, "sha256": store.file_sha256(Path(checkpoint))},
                "calibration": {"source": photos.source, "images": list(c.observed.digests)},
            },
        )
        figures = _latency_figures(engine, result.latency)
        shown = report.Build(
            engine=engine,
            target=site.target,
            floats=c.floats,
            plain=c.plain,
            factors=c.scales.factors,
            counts=loaded.counts,
            observed=c.observed,
            table=result.table,
            photos=photos.photos,
            ops=c.inputs.ops,
            accuracy=result.accuracy,
            figures=figures,
            manifest=manifest,
        )
        with site.reporter.busy("writing the report"):
            page = report.page(report.collect(shown))
        measured = {
            "report.html": page,
            "latency.json": json.dumps(figures, indent=2) + "\n",
            "timing.json": _timing_json(result.seconds),
        }
        bundle.write_measured(temporary, measured)
    return folder


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def _warn(reporter: Reporter, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        reporter.warn(warning)


def _spec_warnings(file: SpecFile) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if file.no_effect:
        found = (f"without effect on this target: {', '.join(file.no_effect)}",)
    found += file.notes
    return found + process_op_warnings(file.spec.dataset.process_ops if file.spec.dataset else [])


def _main_size(file: SpecFile) -> tuple[int, int]:
    shapes = list(file.spec.frontend.shape.values())
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1:
        raise SpecError(
            f"the shape {file.spec.frontend.shape} is not one image",
            fix="write shape: {NAME: [1, C, H, W]}",
            **file.at("frontend", "shape"),
        )
    return shapes[0][2], shapes[0][3]


def _latency(engine: Engine) -> Latency:
    """Latency of the main library on random input of the spec's shape."""
    net, size = engine.main_net, engine.main_size
    x = runner.random_input(net.input_tensor.channels, *size, seed=0)
    if net.input_tensor.kind == "uint8":
        x = np.rint(x[0].transpose(1, 2, 0)[None] * 255).astype(np.uint8)
    run_library = engine.library(net, size)
    return latency.measure({"library": lambda: run_library(x)}, BENCH_RUNS)["library"]


def _network_json(counts: NetworkStats, kernels: Mapping[str, str]) -> str:
    """The layers' work, and the kernels of the library with their proofs."""
    return json.dumps(counts.to_json() | {"kernels": dict(kernels)}, indent=2) + "\n"


def _accuracy_json(result: Accuracy, photos: PhotoSet) -> str:
    """The figures, and beside them what the build was calibrated on."""
    calibration = {"source": photos.source, "images": len(photos.photos)}
    return json.dumps(result.to_json() | {"calibration": calibration}, indent=2) + "\n"


def _latency_figures(engine: Engine, speed: Latency) -> dict[str, Any]:
    """The object of measured/latency.json."""
    return {
        "machine": bundle.machine() | {"isa": engine.host.isa, "threads": engine.host.threads},
        "input_shape": next(iter(engine.spec.frontend.shape.values())),
        "library": speed.to_json(),
        "peers": {},
    }


def _timing_json(seconds: Mapping[str, float]) -> str:
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {
        "seconds": {stage: round(s, 2) for stage, s in seconds.items()},
        "peak_memory_bytes": peak_kib * 1024,
    }
    return json.dumps(report, indent=2) + "\n"
