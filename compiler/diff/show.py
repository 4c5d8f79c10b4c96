"""A comparison on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from compiler.diff.changes import Difference, ValueChange
from compiler.progress import Reporter

_DIGEST = 12  # letters of a digest that are shown
_LONGEST = 60  # letters of a value


def show(found: Difference, reporter: Reporter) -> None:
    """Every part that changed, then the regressions."""
    reporter.stage(f"a: {found.a}")
    reporter.stage(f"b: {found.b}")
    if found.same:
        reporter.stage("the same bytes in every deterministic file")
    _values(reporter, "spec", found.spec)
    _values(reporter, "made with and from", found.tools)
    _table(
        reporter,
        "scales",
        ("tensor", "a", "b", "change"),
        (
            (c.tensor, _number(c.a, ".6g"), _number(c.b, ".6g"), _percent(c.relative))
            for c in found.scales
        ),
    )
    _table(
        reporter,
        "weights",
        ("layer", "changed", "of", "largest step", "scales", "biases"),
        (
            (
                c.layer,
                _number(c.changed, ",") if c.changed is not None else "another shape",
                f"{c.values:,}",
                _number(c.largest_step, "d"),
                _percent(c.scales),
                _number(c.biases, ","),
            )
            for c in found.weights
        ),
    )
    _accuracy(reporter, found)
    _latency(reporter, found)
    _values(reporter, "files", found.files, digests=True)
    for regression in found.regressions:
        reporter.warn(f"regression: {regression}")


def _accuracy(reporter: Reporter, found: Difference) -> None:
    title = "accuracy of int8, b - a" + ("" if found.paired else ": NOT the same images")
    _table(
        reporter,
        title,
        ("metric", "a", "b", "change", "95 % interval", "drop against fp32"),
        (
            (
                c.metric,
                f"{c.a:.4f}",
                f"{c.b:.4f}",
                f"{c.change:+.4f}",
                "-" if c.low is None else f"{c.low:+.4f} to {c.high:+.4f}",
                f"{c.drop:+.4f}",
            )
            for c in found.accuracy
        ),
    )


def _latency(reporter: Reporter, found: Difference) -> None:
    if found.latency is None:
        reporter.detail("latency: not measured on both sides")
        return
    change = found.latency
    note = "" if change.comparable else ", on different machines or sizes"
    reporter.stage(
        f"latency {change.a_ms:.1f} ms -> {change.b_ms:.1f} ms ({change.percent:+.1f} %{note})"
    )


def _values(
    reporter: Reporter, title: str, changes: Iterable[ValueChange], *, digests: bool = False
) -> None:
    rows = [(c.key, *(_short(v, digests=digests) for v in (c.a, c.b))) for c in changes]
    _table(reporter, title, ("key", "a", "b"), rows, numbers=False)


def _table(
    reporter: Reporter,
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, ...]],
    *,
    numbers: bool = True,
) -> None:
    """A table; nothing where there is no row."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if numbers and i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    if table.row_count:
        reporter.table(table)


def _short(value: Any, *, digests: bool) -> str:
    words = str(value)
    if digests or (len(words) == 64 and words.isalnum()):
        return words[:_DIGEST]
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.2f} %"
