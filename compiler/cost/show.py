"""The cost model on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from compiler.cost.checks import Check
from compiler.cost.model import Cost, Part, Schedule
from compiler.progress import Reporter

ASSUMED = "assumed"
_TIGHT = (0, 1, 0, 0)  # a dozen columns on a usual terminal


def show(cost: Cost, checked: Sequence[Check], reporter: Reporter) -> None:
    """Both schedules, what is assumed, and how far the model is from published rates."""
    if reporter.quiet:
        return
    batch = f", batch {cost.batch}" if cost.batch > 1 else ""
    reporter.stage(f"{cost.name} on {cost.target}: {cost.macs / 1e9:.2f} GMAC{batch}")
    for title, schedule, fused in (
        ("layer by layer", cost.layer_by_layer, False),
        ("fused", cost.fused, True),
    ):
        reporter.console.print(_table(cost, title, schedule, fused=fused))
    for line in (*verdicts(cost), saving(cost)):
        reporter.detail(line)
    reporter.console.print(_checks(checked))
    for line in (*notes(cost), *check_notes(checked)):
        reporter.detail(line)


def verdicts(cost: Cost) -> tuple[str, ...]:
    """One sentence a schedule: time, frames a second of a die and of the card, what bounds it."""
    return tuple(
        f"{title}: {s.ms:.3f} ms a frame on a die, {1e3 / s.ms:,.1f} frames/s a die, "
        f"{cost.frames_per_s(s):,.1f} a card, {s.bound} bound, "
        f"{100 * s.utilization:.1f} % of the peak{mark}"
        for title, s, fused in (
            ("layer by layer", cost.layer_by_layer, False),
            ("fused", cost.fused, True),
        )
        for mark in [f" ({ASSUMED})" if cost.is_assumed("ms", fused=fused) else ""]
    )


def saving(cost: Cost) -> str:
    """What fusing is worth: time and traffic of one schedule over those of the other."""
    layers, fused = cost.layer_by_layer, cost.fused
    mark = f" ({ASSUMED})" if cost.is_assumed("ms", fused=True) else ""
    return (
        f"fused in {len(fused.parts)} of {len(layers.parts)} parts: {layers.ms / fused.ms:.1f} "
        f"times as fast, {layers.bytes / fused.bytes:.1f} times less traffic{mark}"
    )


def notes(cost: Cost) -> tuple[str, ...]:
    """What the figures rest on."""
    hardware = cost.die.figures
    used = [
        f"{name} {f.value:g} {f.unit}".rstrip() + f" ({ASSUMED if f.assumed else f.source})"
        for name, f in hardware.items()
    ]
    return (
        f"hardware of the card: {'; '.join(used)}",
        "each schedule runs at peak rates, compute overlapping memory; how the vendor's compiler "
        "schedules is not published",
    )


def check_notes(checked: Sequence[Check]) -> tuple[str, ...]:
    """Where the networks come from, and which published rate cannot be of one of them."""
    sources = "; ".join(f"{c.name} ({c.source})" for c in checked)
    return (
        f"multiply-accumulates are counted in closed form: {sources}",
        *(
            f"{c.name}: {c.published_per_s:g} images/s would take {c.needed_tops:,.0f} TOPS of "
            f"{c.peak_tops:g}, so the vendor ran another network"
            for c in checked
            if not c.possible
        ),
    )


def _table(cost: Cost, title: str, schedule: Schedule, *, fused: bool) -> Table:
    def mark(words: str, figure: str) -> str:
        return f"{words}\n{ASSUMED}" if cost.is_assumed(figure, fused=fused) else words

    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=_TIGHT)
    columns = (
        mark("segment" if fused else "layer", "layers"),
        "GMAC",
        mark("in MB", "in_bytes"),
        mark("out MB", "out_bytes"),
        mark("weight kB", "weight_bytes"),
        mark("chip kB", "on_chip_bytes"),
        mark("compute ms", "compute_ms"),
        mark("memory ms", "memory_ms"),
        mark("ms", "ms"),
        mark("bound", "bound"),
        mark("used", "utilization"),
    )
    for column in columns:
        shown.add_column(column, justify="left" if column is columns[0] else "right", no_wrap=True)
    for part in schedule.parts:
        shown.add_row(part.name, *_cells(part))
    shown.add_section()
    shown.add_row("total", *_cells(schedule), style="bold")
    return shown


def _cells(part: Part | Schedule) -> tuple[str, ...]:
    return (
        f"{part.macs / 1e9:.3f}",
        f"{part.in_bytes / 1e6:.2f}",
        f"{part.out_bytes / 1e6:.2f}",
        f"{part.weight_bytes / 1e3:.1f}",
        f"{part.on_chip_bytes / 1e3:.1f}",
        f"{part.compute_ms:.3f}",
        f"{part.memory_ms:.3f}",
        f"{part.ms:.3f}",
        part.bound,
        f"{100 * part.utilization:.1f} %",
    )


def _checks(checked: Sequence[Check]) -> Table:
    mark = f"\n{ASSUMED}" if any(c.assumed for c in checked) else ""
    shown = Table(
        title="the same model against rates that the vendor publishes, images/s on one die",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    shown.add_column("network", no_wrap=True)
    for title in ("GMAC", "published", "of the peak"):
        shown.add_column(title, justify="right")
    for title in ("layerwise", "error", "fused", "error"):
        shown.add_column(title + mark, justify="right")
    for c in checked:
        shown.add_row(
            c.name,
            f"{c.macs / 1e9:,.2f}",
            f"{c.published_per_s:,.1f}",
            f"{100 * c.needed_tops / c.peak_tops:.0f} %",
            f"{c.layer_by_layer_per_s:,.1f}",
            f"{100 * c.layer_by_layer_error:+.0f} %" if c.possible else "-",
            f"{c.fused_per_s:,.1f}",
            f"{100 * c.fused_error:+.0f} %" if c.possible else "-",
        )
    return shown
