"""`python -m compiler.doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from compiler import cli
from compiler.diagnosis import Row, examine
from compiler.progress import Reporter

_COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}


def show(rows: Iterable[Row], reporter: Reporter) -> None:
    """A table a topic, and how to mend what is not well."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for title in ("", "", "found", "fix"):
        table.add_column(title, overflow="fold")
    topic = ""
    for row in rows:
        if topic not in ("", row.topic):
            table.add_section()
        topic = row.topic
        optional = "" if row.required or row.state != "missing" else " (optional)"
        cells = (row.name + optional, row.found, row.fix)
        table.add_row(Text(row.state, _COLOURS[row.state]), *map(Text, cells))
    reporter.table(table)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "doctor",
        "What this machine has, what is missing, and how to get it.",
        examples=("", "--quick", "--json doctor.json"),
        status="0 ok, 2 something required is missing",
    )
    result.add_argument("--quick", action="store_true", help="skip the self test")
    result.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=cli.STDOUT,
        metavar="FILE",
        help="write the rows as JSON; without FILE to standard output",
    )
    return cli.with_output(result)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Looks at everything; 2 where something required is missing."""
    with reporter.busy("looking around"):
        rows = tuple(examine(quick=args.quick))
    show(rows, reporter)
    bad = [row for row in rows if row.required and row.state == "missing"]
    for row in bad if args.quiet else ():
        reporter.warn(f"{row.name}: {row.found}; {row.fix}")
    reporter.stage("nothing required is missing" if not bad else f"{len(bad)} required missing",
                   "bold green" if not bad else "bold red")  # fmt: skip
    cli.write_result(args.json, {"ok": not bad, "rows": [asdict(row) for row in rows]})
    return 0 if not bad else cli.BAD_INPUT


if __name__ == "__main__":
    cli.main(parser(), run)
