"""The build, read from top to bottom: spec -> model -> calibrate -> quantize -> compile -> verify.

The only module that calls all stages. Expensive stages are kept in the store under the digest of
everything they depend on, so a second build with one changed line re-runs only what follows.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from compiler.dataset import PhotoSet
from compiler.engine import Engine
from compiler.errors import CalibrationWarningError, SpecError
from compiler.latency import Latency
from compiler.network import Network
from compiler.progress import Reporter
from compiler.recovery import equalize
from compiler.recovery.split import split_residuals
from compiler.spec import SpecFile, at
from compiler.stats import NetworkStats
from compiler.store import Store

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
    spec, clock = file.spec, _Clock()
    target = targets.load(file)
    targets.require(file, target)
    machine = host.detect(spec.backend.compile.host.isa, spec.backend.compile.host.threads)
    out = out or Path(spec.workspace.path)
    store.require_writable(out)
    kept = Store(out / ".store", fresh)
    _warn(reporter, _spec_warnings(file))

    with clock("model"):
        reporter.stage(f"model      {spec.frontend.checkpoint}")
        shape = {name: tuple(dims) for name, dims in spec.frontend.shape.items()}
        loaded = model.load(stages.onnx_file(spec.frontend, shape, kept), shape)
        with reporter.busy("simplifying the graph"):
            fp32 = stages.simplified(loaded, kept, reporter)
        floats = fusion.fuse(fp32)
        stages.require_operators(fp32, target)
        counts = stats.network_stats(floats, _main_size(file))
    if until == "model":
        return Result(counts, seconds=clock.seconds)

    with clock("calibrate"):
        photos = stages.photo_set(file, scaling.scaling(floats).rate)
        _warn(reporter, photos.warnings)
        reporter.stage(f"calibrate  {len(photos.photos)} images of {photos.source}")
        wish = spec.backend.quantize
        inputs = stages.CalibrationInputs(file, photos, kept, machine.threads, reporter)
        recipe = stages.recipe(wish, target)
        if recipe.split_residuals:
            floats = split_residuals(floats)
        plain = floats
        chosen_scales = stages.channel_scales(inputs, floats, recipe)
        floats = equalize.equalize(floats, chosen_scales.factors)
        observed = stages.observe(inputs, floats)
        table, doubts = stages.thresholds(inputs, floats, observed, symmetric=target.symmetric)
        if doubts and wish.strict:
            raise CalibrationWarningError(
                "; ".join(doubts), where="calibration", fix="use more images, or strict: false"
            )
        _warn(reporter, doubts)
    if until == "calibrate":
        return Result(counts, table, seconds=clock.seconds)

    with clock("quantize"):
        reporter.stage(f"quantize   {wish.calibrate_mode}, {target.activations} activations")
        net, table = stages.integer(inputs, floats, table, observed, recipe)
    if until == "quantize":
        seen = frozenset(observed.digests)
        return Result(counts, table, net, fp32=fp32, calibrated_on=seen, seconds=clock.seconds)

    with clock("compile"):
        reporter.stage(f"compile    {machine.isa}, {machine.threads} threads")
        engine = Engine(spec, fp32, net, machine, kept, frozenset(observed.digests))
        with reporter.busy("compiling the library"):
            main_library = engine.library_path(engine.main_net, engine.main_size)
            if engine.portable:
                engine.portable.library_path(engine.main_net, engine.main_size)
    if until == "compile":
        return Result(counts, table, net, library=main_library, seconds=clock.seconds)

    with clock("verify"):
        reporter.stage(f"verify     protocol {spec.verify.protocol}")
        result, doubts = verify.measure_engine(engine, spec.verify, reporter)
        _warn(reporter, doubts)
        speed = _latency(engine)
    if until == "verify":
        return Result(
            counts, table, net, result, speed, library=main_library, seconds=clock.seconds
        )

    folder = out / spec.name
    for_vendor, doubts = vendor.texts(spec, engine.main_size)
    _warn(reporter, doubts)
    with clock("bundle"), store.atomic(folder) as temporary, store.storage(folder):
        manifest = bundle.write(
            temporary,
            engine,
            texts={
                "network.json": json.dumps(counts.to_json(), indent=2) + "\n",
                "calibration.json": table.to_json(),
                "equalization.json": equalize.to_json(chosen_scales),
                "accuracy.json": _accuracy_json(result, photos),
                "accuracy.csv": result.to_csv(),
                **for_vendor,
            },
            origin={
                "model": {
                    "path": spec.frontend.checkpoint,
                    "sha256": store.file_sha256(Path(spec.frontend.checkpoint)),
                },
                "calibration": {"source": photos.source, "images": list(observed.digests)},
            },
        )
        figures = _latency_figures(engine, speed)
        shown = report.Build(
            engine=engine,
            target=target,
            floats=floats,
            plain=plain,
            factors=chosen_scales.factors,
            counts=counts,
            observed=observed,
            table=table,
            photos=photos.photos,
            ops=inputs.ops,
            accuracy=result,
            figures=figures,
            manifest=manifest,
        )
        with reporter.busy("writing the report"):
            page = report.page(report.collect(shown))
        measured = {
            "report.html": page,
            "latency.json": json.dumps(figures, indent=2) + "\n",
            "timing.json": _timing_json(clock),
        }
        bundle.write_measured(temporary, measured)
    return Result(counts, table, net, result, speed, main_library, folder, seconds=clock.seconds)


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
            **at(file.document, "frontend", "shape"),
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


def _timing_json(clock: _Clock) -> str:
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {
        "seconds": {stage: round(s, 2) for stage, s in clock.seconds.items()},
        "peak_memory_bytes": peak_kib * 1024,
    }
    return json.dumps(report, indent=2) + "\n"
