"""What a person reads at the end of a build or a verification: one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from calib.table import CalibrationTable
from compiler.accuracy import COMPETITORS, Accuracy
from compiler.progress import Reporter
from compiler.schema import Spec
from compiler.stats import NetworkStats

if TYPE_CHECKING:
    from compiler.pipeline import Result

MOST_LAYERS, MOST_KERNELS = 8, 12


def show_accuracy(reporter: Reporter, name: str, result: Accuracy) -> None:
    """Scores of fp32, int8 and bicubic, the drop, bit-exactness and the gate."""
    table = Table(
        title=f"{name}: {len(result.images)} images of {result.dataset}, protocol {result.protocol}"
        + (f", {result.excluded} calibration images left out" if result.excluded else ""),
        title_justify="left",
    )
    table.add_column("")
    for title, metric, _ in result.metrics:
        unit = " (dB)" if metric.endswith("_db") else ""
        table.add_column(f"{title}{unit}", justify="right")
    for competitor in COMPETITORS:
        means = (_number(result.mean(competitor, m), d) for _, m, d in result.metrics)
        table.add_row(competitor, *means)
    drops = (_number(result.drop(m), d) for _, m, d in result.metrics)
    table.add_row("drop", *drops, style="bold")
    exact = result.bit_exact
    reporter.table(table)
    reporter.stage(
        f"bit-exact to the golden model: {exact.values:,} values of {exact.images} inputs"
    )
    if not result.gate.passed:
        reporter.warn("gate missed: " + "; ".join(result.gate.reasons))
    elif result.gate.checked:
        reporter.stage("gate passed", "bold green")
    else:
        reporter.stage("no gate is set")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def show_build(reporter: Reporter, spec: Spec, result: Result) -> None:
    """One screen: the network, thresholds, accuracy, frame time, and where the bundle is."""
    counts = result.stats
    shape = "x".join(map(str, spec.frontend.dims))
    reporter.stage(
        f"{spec.name}: {counts.params:,} parameters, {counts.macs / 1e9:.2f} GMAC "
        f"= {counts.flops / 1e9:.2f} GFLOPs at {shape}"
    )
    reporter.table(_layers(counts))
    if result.table is not None:
        reporter.table(_thresholds(result.table))
    if result.kernels:
        reporter.table(_kernels(result.kernels))
    if result.accuracy is not None:
        show_accuracy(reporter, spec.name, result.accuracy)
    if result.latency is not None:
        ms = result.latency.median_ms
        reporter.stage(
            f"frame time {ms:.1f} ms ({1e3 / ms:.1f} frames/s, median of {result.latency.runs})"
        )
    if result.bundle is not None:
        spent = ", ".join(f"{name} {s:.1f} s" for name, s in result.seconds.items())
        reporter.stage(f"bundle {result.bundle}  ({spent})")
        reporter.detail(f"open {result.bundle / 'measured' / 'report.html'} in a browser")


def build_json(spec: Spec, result: Result) -> dict[str, Any]:
    """What a build made, for scripts; null where it was stopped before."""
    return {
        "name": spec.name,
        "bundle": str(result.bundle) if result.bundle else None,
        "library": str(result.library) if result.library else None,
        "parameters": result.stats.params,
        "macs": result.stats.macs,
        "accuracy": result.accuracy.to_json() if result.accuracy else None,
        "latency": result.latency.to_json() if result.latency else None,
        "seconds": {stage: round(s, 2) for stage, s in result.seconds.items()},
    }


def _kernels(kernels: Mapping[str, str]) -> Table:
    """The kernel of every operator; how much of each bound its proof of exactness uses."""
    shown = Table(title="kernels", title_justify="left")
    for column in ("operator", "kernel"):
        shown.add_column(column)
    for name, kernel in list(kernels.items())[:MOST_KERNELS]:
        shown.add_row(name, kernel)
    if len(kernels) > MOST_KERNELS:
        shown.add_row("...", f"{len(kernels) - MOST_KERNELS} more, see network.json")
    return shown


def _layers(counts: NetworkStats) -> Table:
    """The layers with the most work, in network order; all of them where they fit the screen."""
    most = sorted(counts.layers, key=lambda layer: -layer.macs)[:MOST_LAYERS]
    hidden = len(counts.layers) - len(most)
    title = f"layers (and {hidden} smaller ones, see network.json)" if hidden else "layers"
    shown = Table(title=title, title_justify="left")
    for column in ("layer", "output", "kernel", "parameters", "GMAC", "GFLOPs"):
        shown.add_column(column, justify="left" if column == "layer" else "right")
    for layer in (layer for layer in counts.layers if layer in most):
        size = "x".join(map(str, layer.output))
        work = (f"{layer.macs / 1e9:.3f}", f"{2 * layer.macs / 1e9:.3f}")
        kernel = "x".join(map(str, layer.kernel))
        shown.add_row(layer.name, size, kernel, f"{layer.params:,}", *work)
    return shown


def _thresholds(table: CalibrationTable) -> Table:
    shown = Table(title="activations", title_justify="left")
    for title in ("tensor", "min", "max", "threshold", "scale", "zero point", "clipped"):
        shown.add_column(title, justify="left" if title == "tensor" else "right")
    for name in table:
        t = table[name]
        numbers = (f"{v:.4g}" for v in (t.min, t.max, t.threshold, t.scale))
        shown.add_row(name, *numbers, str(t.zero_point), f"{100 * t.clipped_fraction:.3f} %")
    return shown
