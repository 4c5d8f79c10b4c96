"""`python -m compiler.report BUNDLE`: writes new latencies into a bundle's report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.errors import DataError
from compiler import bundle, cli, store
from compiler.errors import BundleError
from compiler.progress import Reporter

REPORT, LATENCY = "report.html", "latency.json"


def update(path: Path, figures: Mapping[str, Any]) -> Path:
    """Replaces the latencies of a bundle, in measured/latency.json and in its report.

    Nothing deterministic changes.

    Args:
        figures: the object of measured/latency.json, which is also that of `bench --json`.
    Returns:
        The report.
    Raises:
        BundleError: not a complete bundle, or its report is of another version.
        DataError: the figures are not such an object.
    """
    from compiler.report.speed import Speed, refresh

    manifest = bundle.check(path)
    report = path / bundle.MEASURED / REPORT
    if not report.is_file():
        raise BundleError("the bundle has no report", where=str(report), fix="build it again")
    try:
        speed = Speed.of(figures, manifest["host"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"these are no latencies: {type(error).__name__} {error}",
            fix="measure them with python -m compiler.bench BUNDLE --peers --json FILE",
        ) from error
    changes = {
        REPORT: refresh(report.read_text("utf-8"), speed),
        LATENCY: store.json_text(figures),
    }
    bundle.replace_measured(path, changes)
    return report


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "report",
        "Write latencies that were measured after the build into a bundle's report.\n"
        "(python -m compiler.bench BUNDLE --peers --save does both at once.)",
        examples=(
            "artifacts/bpp3x_int8 --latency bench.json",
            "artifacts/bpp3x_int8",
        ),
    )
    result.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    result.add_argument(
        "--latency",
        type=Path,
        metavar="FILE",
        help="what `bench --json FILE` wrote; default: the bundle's measured/latency.json",
    )
    return cli.with_output(result)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Writes the report again."""
    source = args.latency or args.bundle / bundle.MEASURED / LATENCY
    bundle.check(args.bundle)
    try:
        figures = json.loads(source.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the latencies cannot be read: {error}",
            where=str(source),
            fix="measure them with python -m compiler.bench BUNDLE --peers --json FILE",
        ) from error
    report = update(args.bundle, figures)
    reporter.stage(f"written: {report}")
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
